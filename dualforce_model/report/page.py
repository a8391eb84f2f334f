"""Puts the page together from the run folder and publishes it as one self-contained file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from dualforce_model.report import obtained, words
from dualforce_model.report.cards import card
from dualforce_model.report.films import comparisons
from dualforce_model.report.funnel import Journey, Story, stage_table, steps
from dualforce_model.report.plots import loss_curve
from dualforce_model.store import publish

MOST_CARDS = 80  # a page beyond that is slow to open; what is left out is said on the page
MOST_FILMS = 3  # accepted clips that are shown beside their decoded latents


def render(run_dir: Path) -> Path:
    """Write `report/index.html` of a run folder, whatever stages it has, and return its path.

    The same run folder gives the same bytes. Raises FileNotFoundError when the folder has no run.json.
    """
    import jinja2

    config = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["config"]
    story = Story(run_dir)
    ways = story.ways
    chosen, cuts = sample(ways, MOST_CARDS)
    story.look_up(chosen)
    films, films_note = comparisons(run_dir, [w for w in ways if w.status == "accepted" and w.clip_id], MOST_FILMS)
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("page.html.j2").render(
        name=words.visible(config.get("name") or run_dir.absolute().name),
        lead=_lead(ways),
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
        funnel=_bars(steps(story)),
        reasons=_reasons(ways),
        stages=[
            {**row, "title": words.STAGES.get(row["stage"], row["stage"]), "took": words.duration(row["seconds"])}
            for row in stage_table(story)
        ],
        obtained=obtained.sections(run_dir),
        training=_training(story),
        comparisons=films,
        films_note=films_note,
        cards=[card(story, way, config.get("quality") or {}, number) for number, way in enumerate(chosen)],
        cuts=cuts,
        total=len(ways),
        verdicts=_verdicts(chosen),
        summary=_summary(run_dir, config),
        config=words.visible_lines(yaml.safe_dump(config, sort_keys=False, allow_unicode=True)),
    )
    page = run_dir / "report" / "index.html"
    with publish(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def sample(ways: list[Journey], most: int) -> tuple[list[Journey], list[str]]:
    """About `most` journeys, evenly drawn from every verdict and reason, and a sentence for each group that was cut."""
    if len(ways) <= most:
        return ways, []
    groups: dict[tuple[str, str], list[int]] = {}
    for k, way in enumerate(ways):
        groups.setdefault((way.status, way.reason), []).append(k)
    share = max(3, most // len(groups))
    kept, cuts = set(), []
    for (status, reason), members in sorted(groups.items()):
        count = min(share, len(members))
        kept |= {members[k * len(members) // count] for k in range(count)}
        if count < len(members):
            cuts.append(f"{status}{f' as {reason}' if reason else ''}: {count} of {len(members)} shown")
    return [ways[k] for k in sorted(kept)], cuts


def _lead(ways: list[Journey]) -> str:
    sources = len({way.source for way in ways})
    if not sources:
        return "No source has been read yet."
    counts = Counter(way.status for way in ways)
    clips = sum(bool(way.clip_id) for way in ways)
    parts = [f"{counts[s]} {s}" for s in ("accepted", "rejected", "failed") if counts[s]]
    return (
        f"{sources} source{'s' if sources != 1 else ''} gave {clips} clip{'s' if clips != 1 else ''}. "
        f"Of all clips and sources without one: {', '.join(parts)}."
    )


def _bars(steps: list[tuple[str, int, str]]) -> list[dict[str, Any]]:
    most = max((count for _, count, _ in steps), default=0) or 1
    return [{"label": a, "count": n, "detail": d, "percent": round(100 * n / most, 1)} for a, n, d in steps]


def _reasons(ways: list[Journey]) -> list[dict[str, Any]]:
    counts = Counter((way.status, way.reason) for way in ways if way.status != "accepted")
    most = max(counts.values(), default=1)
    return [
        {
            "name": reason,
            "plain": words.plain(reason),
            "status": status,
            "count": n,
            "percent": round(100 * n / most, 1),
        }
        for (status, reason), n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _verdicts(ways: list[Journey]) -> list[tuple[str, str, int]]:
    counts = Counter(way.status for way in ways)
    named = [(status, status, counts[status]) for status in ("accepted", "rejected", "failed") if counts[status]]
    return [("", "all", len(ways)), *named]


def _training(story: Story) -> dict[str, Any] | None:
    """The loss curve of the run's training, or None when nothing was logged yet."""
    logs = sorted((story.run_dir / "checkpoints").glob("*/log.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    artifacts = story.ledgers["train"]["artifact"].to_pylist() if "train" in story.ledgers else []
    mine = [log for log in logs if any(a and (story.run_dir / a).is_relative_to(log.parent) for a in artifacts)]
    if not logs:
        return None
    log = (mine or logs)[-1]
    # a killed training may leave half a last line
    whole = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    rows = [json.loads(line) for line in whole]
    points = [(float(row["step"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    validation = [(float(row["step"]), float(row["val_loss"])) for row in rows if row.get("val_loss") is not None]
    plot = loss_curve(points, validation)
    if not plot:
        return None
    tenth = max(1, len(points) // 10)
    first = sum(v for _, v in points[:tenth]) / tenth
    last = sum(v for _, v in points[-tenth:]) / tenth
    seconds = sum(float(row.get("seconds") or 0) for row in rows)
    text = (
        f"{points[-1][0]:.0f} optimiser steps in {words.duration(seconds)} of stepping; the loss went from {first:.4g} "
        f"(mean of the first {tenth}) to {last:.4g} (mean of the last {tenth})."
    )
    return {"plot": plot, "words": text, "validated": bool(validation)}


def _summary(run_dir: Path, config: dict[str, Any]) -> list[tuple[str, str]]:
    """The settings that a reader asks for first."""
    found: list[tuple[str, Any]] = [("run folder", run_dir.absolute().name)]
    for label, *keys in (
        ("input", "source", "input"),
        ("clip size", "face_crop", "size"),
        ("faces", "face_crop", "backend"),
        ("video latents", "video_latents", "backend"),
        ("struct latents", "struct_latents", "backend"),
        ("FLAME", "flame", "backend"),
        ("audio", "audio_features", "backend"),
        ("model", "train", "preset"),
        ("training steps", "train", "steps"),
    ):
        value: Any = config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append((label, value))
    return [(label, words.visible(value)) for label, value in found]
