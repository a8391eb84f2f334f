"""What became of every source and clip, from the ledgers alone: journeys, the funnel, the table of stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.compute as pc

from dualforce_model.features import FEATURES
from dualforce_model.store import ledger

PER_ITEM = ("source", "face_crop", "quality", *FEATURES, "metadata")
# what cannot be used of its captions costs a clip its text, and not its place in the dataset
STAGES = ("download", *PER_ITEM[:-1], "text", "metadata", "train_video", "train", "train_few", "generate")
LIGHT = ("source", "clip_id", "status", "reason", "message", "artifact", "reused", "seconds")  # columns that all need

Row = dict[str, Any]


class Step(NamedTuple):
    """What one stage said of an item."""

    status: str
    reason: str


@dataclass(slots=True)
class Journey:
    """One clip's way through the stages, or that of a source that never became a clip (`clip_id` empty)."""

    source: str
    clip_id: str
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def last(self) -> str:
        """The stage that decided: the first that did not accept, else the last that was reached."""
        stage = ""
        for stage, step in self.steps.items():
            if step.status != "accepted":
                return stage
        return stage

    @property
    def status(self) -> str:
        return self.steps[self.last].status

    @property
    def reason(self) -> str:
        return self.steps[self.last].reason

    def passed(self, *stages: str) -> bool:
        """Whether each of `stages` accepted it."""
        return all(stage in self.steps and self.steps[stage].status == "accepted" for stage in stages)


class Story:
    """The ledgers of a run folder, read once: `ways`, ordered by source and clip, and whole rows where they are wanted.

    A way is light (50,000 clips are told in seconds); a row has every column and score, so only shown items ask for it.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        present = [stage for stage in STAGES if ledger.exists(run_dir, stage)]
        self.ledgers = {stage: ledger.table(run_dir, stage, LIGHT) for stage in present}
        self._rows: dict[tuple[str, str, str], Row] = {}

    @cached_property
    def ways(self) -> list[Journey]:
        """Every clip's way, and that of every source that never became one."""
        sources: dict[str, Journey] = {}
        clips: dict[tuple[str, str], Journey] = {}
        said: dict[tuple[str, str], Step] = {}  # few different ones, however many clips there are
        for stage in (name for name in PER_ITEM if name in self.ledgers):
            rows = self.ledgers[stage]
            told = zip(*(rows[name].to_pylist() for name in ("source", "clip_id", "status", "reason")), strict=True)
            for source, clip_id, status, reason in told:
                step = said.setdefault((status, reason), Step(status, reason))
                if clip_id:
                    way = clips.get((source, clip_id))
                    if way is None:
                        before = sources[source].steps if source in sources else {}
                        way = clips[source, clip_id] = Journey(source, clip_id, dict(before))
                    way.steps[stage] = step
                elif source:  # a row with neither is about the whole data set
                    sources.setdefault(source, Journey(source, "")).steps[stage] = step
        with_clips = {source for source, _ in clips}
        alone = [way for source, way in sources.items() if source not in with_clips]
        return sorted([*clips.values(), *alone], key=lambda way: (way.source, way.clip_id))

    def messages(self, stage: str) -> dict[tuple[str, str], str]:
        """What a stage said against items, by (source, clip_id)."""
        rows = self.ledgers[stage]
        rows = rows.filter(pc.not_equal(rows["status"], "accepted"))
        names = zip(rows["source"].to_pylist(), rows["clip_id"].to_pylist(), strict=True)
        return dict(zip(names, rows["message"].to_pylist(), strict=True))

    def look_up(self, ways: Iterable[Journey]) -> None:
        """Read the whole rows of these ways, each ledger once."""
        sources = {way.source for way in ways}
        for stage in self.ledgers:
            for row in ledger.table(self.run_dir, stage, where=("source", sources)).to_pylist():
                self._rows[stage, row["source"], row["clip_id"]] = row

    def row(self, way: Journey, stage: str) -> Row | None:
        """The whole ledger row of `way` at `stage`, or None when it never got there."""
        if stage not in way.steps:
            return None
        mine, its_source = (stage, way.source, way.clip_id), (stage, way.source, "")
        if mine not in self._rows and its_source not in self._rows:
            self.look_up([way])
        return self._rows.get(mine) or self._rows[its_source]


def funnel(run_dir: Path) -> list[tuple[str, int, str]]:
    """(label, count, detail) per step: sources, then clips; the detail says what was left behind and why."""
    return steps(Story(run_dir))


def steps(story: Story) -> list[tuple[str, int, str]]:
    """The funnel of a story, see `funnel`."""
    reached = {stage for way in story.ways for stage in way.steps}
    firsts = list({way.source: way for way in reversed(story.ways)}.values())[::-1]
    readable = [way for way in firsts if way.passed("source")]
    found = [("sources", len(firsts), ""), ("readable sources", len(readable), _lost(firsts, ("source",)))]
    cropped = [way for way in story.ways if way.clip_id and way.passed("face_crop")]
    if "face_crop" in reached:
        lost = _lost(readable, ("face_crop",))
        origin = f"from {_many(len({way.source for way in cropped}), 'source')}"
        found.append(("face clips", len(cropped), f"{origin}; {lost}" if lost else origin))
    accepted = [way for way in cropped if way.passed("quality")]
    if "quality" in reached:
        found.append(("accepted clips", len(accepted), _lost(cropped, ("quality",))))
    if reached & set(FEATURES):
        whole = [way for way in accepted if way.passed(*FEATURES)]
        detail = _lost(accepted, tuple(FEATURES)) or _pending(accepted)
        found.append(("clips with all features", len(whole), detail))
    if (story.run_dir / "metadata.parquet").is_file():
        splits = Counter(pd.read_parquet(story.run_dir / "metadata.parquet", columns=["split"])["split"])
        detail = ", ".join(f"{name} {splits[name]}" for name in ("train", "val", "test") if splits[name])
        found.append(("clips in the data set", splits.total(), detail))
    return found


def stage_table(story: Story) -> list[dict[str, Any]]:
    """Per stage that ran: stage, accepted, rejected, failed, reused, seconds, reasons [(reason, count)]."""
    table = []
    for stage, rows in story.ledgers.items():
        found = Counter(zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True))
        counts = {
            status: sum(n for (its, _), n in found.items() if its == status)
            for status in ("accepted", "rejected", "failed")
        }
        reasons = Counter({reason: 0 for (status, reason) in found if status != "accepted"})
        for (status, reason), n in found.items():
            if status != "accepted":
                reasons[reason] += n
        table.append(
            {
                "stage": stage,
                **counts,
                "reused": pc.sum(rows["reused"]).as_py() or 0,
                "seconds": float(pc.sum(rows["seconds"]).as_py() or 0),
                "reasons": sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])),
            }
        )
    return table


def _lost(ways: list[Journey], stages: tuple[str, ...]) -> str:
    """`2 rejected: no_face 2; 1 failed: truncated 1`: what was decided against at one of `stages`."""
    parts = []
    for status in ("rejected", "failed"):
        reasons = Counter(way.reason for way in ways if way.status == status and way.last in stages)
        if reasons:
            listed = ", ".join(f"{r} {n}" for r, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
            parts.append(f"{sum(reasons.values())} {status}: {listed}")
    return "; ".join(parts)


def _pending(ways: list[Journey]) -> str:
    missing = Counter(name for way in ways for name in FEATURES if name not in way.steps)
    return ", ".join(f"{name} not yet made for {count}" for name, count in missing.items())


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
