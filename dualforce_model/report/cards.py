"""One card per item: what is shown of a clip, or of a source that never became one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from dualforce_model import config as configs
from dualforce_model.errors import BadInput
from dualforce_model.media import Clip
from dualforce_model.quality import CHECKS, SCORES, Check, QualityConfig, verdict
from dualforce_model.quality.sound import listen
from dualforce_model.quality.sync import mouth_opening
from dualforce_model.report import words
from dualforce_model.report.funnel import Journey, Row, Story
from dualforce_model.report.pictures import FRAMES, THUMB, data_uri, sheet_of_clip, sheet_of_source
from dualforce_model.report.plots import mouth_and_sound
from dualforce_model.store import ledger
from dualforce_model.timeline import FPS

SIGNS = {"min": "≥", "max": "≤", "within": "±"}


def card(story: Story, way: Journey, thresholds: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What the page shows of one journey. Pictures that can't be made any more are said to be missing."""
    rows = {stage: row for stage in way.steps if (row := story.row(way, stage)) is not None}
    limits = configs.build(QualityConfig, thresholds)
    shown: dict[str, Any] = {
        "anchor": f"item-{number}",
        "status": way.status,
        "title": words.visible(way.clip_id or way.source),
        "subtitle": words.visible(way.source) if way.clip_id else "",
        "verdict": way.status,
        "headline": words.plain(way.reason) if way.reason else _headline(way.last),
        "message": words.visible(rows[way.last]["message"]),
        "reasons": _reasons(way, rows[way.last]),
        "sheet": "",
        "no_picture": "",
        "plot": "",
        "checks": [],
    }
    scores = {}
    if "quality" in rows and way.steps["quality"].status != "failed":
        scores = ledger.scores(rows["quality"])
        shown |= _scores(scores, limits)
    if way.clip_id:
        shown |= _clip(Clip(story.run_dir / "clips", way.clip_id), scores, limits.min_av_confidence)
    else:
        shown |= _source(story.run_dir, way, rows)
    decided = [("decided by", words.STAGES.get(way.last, way.last))] if way.reason else []
    seconds = sum(float(row["seconds"] or 0) for row in rows.values())
    shown["facts"] = [*decided, *_facts(way, rows), ("work", words.duration(seconds))]
    return shown


def _headline(stage: str) -> str:
    return "in the data set" if stage == "metadata" else f"last stage: {words.STAGES.get(stage, stage)}"


def _reasons(way: Journey, row: Mapping[str, Any]) -> list[str]:
    """Every reason that counts against it, the deciding one first."""
    listed = row["reasons"] if row["reasons"] is not None else []
    return list(dict.fromkeys(str(reason) for reason in (way.reason, *listed) if reason))


@contextlib.contextmanager
def _missing(shown: dict[str, Any]) -> Iterator[None]:
    """A report must come out of a damaged run folder too: what can't be read is named on the card."""
    try:
        yield
    except (OSError, BadInput, SafetensorError, KeyError, ValueError) as error:
        shown["no_picture"] = f"This can't be shown any more: {words.visible(error)}"


def _clip(clip: Clip, scores: Mapping[str, float | None], least: float) -> dict[str, Any]:
    """Contact sheet and plot; an offset less sure than `least` is not drawn."""
    shown: dict[str, Any] = {}
    with _missing(shown):
        shown["sheet"] = data_uri(sheet_of_clip(clip), "image/jpeg")
        shown["sheet_size"] = (FRAMES // 2 * THUMB, 2 * THUMB)
        shown["alt"] = f"{FRAMES} frames of clip {words.visible(clip.clip_id)} with face box and landmarks"
        if clip.has_audio:
            arrays, sound = clip.read_landmarks(), listen(clip.audio())
            opening = mouth_opening(arrays["landmarks"], arrays["valid"])
            lag = scores.get("av_offset_frames") if _sure(scores, least) else None
            shown["plot"] = mouth_and_sound(opening, sound.energy, lag, words.visible(clip.clip_id))
            shown |= {"moved": lag is not None and abs(lag) >= 1, "offset": _offset(scores, least)}
    return shown


def _offset(scores: Mapping[str, float | None], least: float) -> str:
    """The found offset as a sentence; one that is less sure than `least` is no finding."""
    lag = scores.get("av_offset_frames")
    if lag is None:
        return "No offset of sound against mouth could be found (nothing moves, or it is too short)."
    ms = lag * 1000 / FPS
    lag = round(lag, 1) + 0.0  # no "-0.0"
    where = "together with" if abs(ms) < 20 else f"{abs(ms):.0f} ms {'after' if ms > 0 else 'before'}"
    sure = words.short(scores.get("av_correlation")), words.short(scores.get("av_confidence"))
    if not _sure(scores, least):
        return f"No offset is sure enough to judge by (best: {lag:+.1f} frames; confidence {sure[1]}, not {least:g})."
    how = f"{lag:+.1f} frames, correlation {sure[0]}, confidence {sure[1]}"
    return f"The sound comes {where} the mouth ({how})."


def _sure(scores: Mapping[str, float | None], least: float) -> bool:
    confidence = scores.get("av_confidence")
    return confidence is not None and confidence >= least


def _source(run_dir: Path, way: Journey, rows: Mapping[str, Row]) -> dict[str, Any]:
    shown: dict[str, Any] = {"no_picture": "No picture: the file could not be read."}
    facts = ledger.facts(rows["source"]) if "source" in rows else {}
    if "probe" not in facts:
        return shown
    with _missing(shown):
        sheet = sheet_of_source(run_dir / facts["path"], float(facts["probe"]["duration_s"]))
        if sheet is None:
            return {"no_picture": "No picture of this file can be decoded."}
        name = words.visible(way.source)
        return {
            "no_picture": "",
            "sheet": data_uri(sheet, "image/jpeg"),
            "sheet_size": (4 * THUMB, THUMB),
            "alt": f"Frames of {name}, which gave no clip",
        }
    return shown


def _scores(scores: Mapping[str, float | None], limits: QualityConfig) -> dict[str, Any]:
    """Each check with its value, what is wanted and whether it passed, as the filter itself judges."""
    whole = {**dict.fromkeys(SCORES), **scores}
    failed = set(verdict(whole, limits))
    checks = [_check(check, whole, limits, failed) for check in CHECKS]
    used = {check.score for check in CHECKS}
    others = ", ".join(f"{_words(name)} {_value(name, whole[name])}" for name in SCORES if name not in used)
    return {"checks": checks, "failing": sum(not c["passed"] for c in checks), "others": others}


def _check(
    check: Check, scores: Mapping[str, Any], limits: QualityConfig, failed: set[tuple[str, str]]
) -> dict[str, Any]:
    value = scores[check.score]
    limit = getattr(limits, check.threshold) if check.threshold else True
    wanted = f"{SIGNS[check.rule]} {_value(check.score, limit)}" if check.rule in SIGNS else "yes"
    if check.when is not None and value is not None:
        least = getattr(limits, check.when[1])
        if not scores[check.when[0]] >= least:
            wanted += f" (not judged: {_words(check.when[0])} below {words.short(least)})"
    passed = value is None or (check.reason, check.says.format(value=value, limit=limit)) not in failed
    shown = ("yes" if value else "no") if check.rule == "true" and value is not None else _value(check.score, value)
    return {"name": _words(check.score), "value": shown, "wanted": wanted, "passed": passed}


def _words(score: str) -> str:
    for ending in ("_s", "_px", "_deg", "_db", "_frames"):
        if score.endswith(ending):
            score = score.removesuffix(ending)
    return score.replace("_", " ").replace("av ", "AV ")


def _value(score: str, value: Any) -> str:
    unit = SCORES[score][0]
    text = words.short(value)
    if value is None or not unit or unit.startswith("0"):
        return text
    return f"{text}°" if unit == "°" else f"{text} {'fps' if unit == '1/s' else unit}"


def _facts(way: Journey, rows: Mapping[str, Row]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if "face_crop" in rows and way.clip_id:
        clip = ledger.facts(rows["face_crop"])
        if "frames" in clip:
            start = float(clip.get("start_s", 0.0))
            facts.append(
                ("clip", f"{clip['frames']} frames, {start:.2f}–{start + clip['frames'] / FPS:.2f} s of the source")
            )
    if "source" in rows:
        probe = ledger.facts(rows["source"]).get("probe")
        if probe:
            rate = f"{words.short(probe['fps_mean'])} fps{' (variable)' if probe['variable_fps'] else ''}"
            audio = probe["audio"]
            sound = f"{audio['codec']} {audio['rate'] / 1000:g} kHz" if audio else "no sound track"
            size = f"{probe['width']}×{probe['height']}"
            turned = f", turned {probe['rotation']}°" if probe["rotation"] else ""
            facts.append(
                (
                    "source",
                    f"{probe['video_codec']} {size} {rate}, {sound}, {words.duration(probe['duration_s'])}{turned}",
                )
            )
    if "metadata" in rows:
        split = ledger.facts(rows["metadata"]).get("split")
        if split:
            facts.append(("split", str(split)))
    return facts
