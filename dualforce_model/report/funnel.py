"""What became of every source and clip, from the ledgers alone: journeys, the funnel, the table of stages."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dualforce_model.features import FEATURES
from dualforce_model.store import ledger

PER_ITEM = ("source", "face_crop", "quality", *FEATURES, "metadata")
STAGES = (*PER_ITEM, "train", "generate")

Row = dict[str, Any]


@dataclass
class Journey:
    """One clip's way through the stages, or that of a source that never became a clip (`clip_id` empty)."""

    source: str
    source_id: str
    clip_id: str
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def last(self) -> tuple[str, Row]:
        """The stage that decided: the first that did not accept, else the last that was reached."""
        for stage in self.rows:
            if self.rows[stage]["status"] != "accepted":
                return stage, self.rows[stage]
        stage = list(self.rows)[-1]
        return stage, self.rows[stage]

    @property
    def status(self) -> str:
        return str(self.last[1]["status"])

    @property
    def reason(self) -> str:
        return str(self.last[1]["reason"])

    def passed(self, *stages: str) -> bool:
        """Whether each of `stages` accepted it."""
        return all(self.rows.get(stage, {}).get("status") == "accepted" for stage in stages)


def journeys(run_dir: Path) -> list[Journey]:
    """Every clip, and every source without a clip, ordered by source and clip."""
    sources: dict[str, Journey] = {}
    clips: dict[tuple[str, str], Journey] = {}
    for stage in PER_ITEM:
        for row in _rows(run_dir, stage):
            source = str(row["source"])
            if not row["clip_id"]:
                if not source:
                    continue  # a row about the whole data set
                journey = sources.setdefault(source, Journey(source, str(row["source_id"]), ""))
            else:
                key = (source, str(row["clip_id"]))
                if key not in clips:
                    before = sources[source].rows if source in sources else {}
                    clips[key] = Journey(source, str(row["source_id"]), key[1], dict(before))
                journey = clips[key]
            journey.rows[stage] = row
    with_clips = {source for source, _ in clips}
    alone = [journey for source, journey in sources.items() if source not in with_clips]
    return sorted([*clips.values(), *alone], key=lambda j: (j.source, j.clip_id))


def funnel(run_dir: Path) -> list[tuple[str, int, str]]:
    """(label, count, detail) per step: sources, then clips; the detail says what was left behind and why."""
    ways = journeys(run_dir)
    reached = {stage for way in ways for stage in way.rows}
    by_source: dict[str, list[Journey]] = {}
    for way in ways:
        by_source.setdefault(way.source, []).append(way)
    firsts = [group[0] for group in by_source.values()]
    readable = [way for way in firsts if way.passed("source")]
    clips = [way for way in ways if way.clip_id]
    steps = [("sources", len(firsts), ""), ("readable sources", len(readable), _lost(firsts, ("source",)))]
    if "face_crop" in reached:
        lost = _lost(readable, ("face_crop",))
        cropped = [way for way in clips if way.passed("face_crop")]
        steps.append(
            ("face clips", len(cropped), f"from {_many(len({w.source for w in cropped}), 'source')}{_and(lost)}")
        )
    else:
        cropped = []
    if "quality" in reached:
        accepted = [way for way in cropped if way.passed("quality")]
        steps.append(("accepted clips", len(accepted), _lost(cropped, ("quality",))))
    else:
        accepted = []
    if reached & set(FEATURES):
        whole = [way for way in accepted if way.passed(*FEATURES)]
        detail = _lost(accepted, tuple(FEATURES)) or _pending(accepted)
        steps.append(("clips with all features", len(whole), detail))
    if (run_dir / "metadata.parquet").is_file():
        table = pd.read_parquet(run_dir / "metadata.parquet", columns=["split"])
        splits = Counter(table["split"])
        detail = ", ".join(f"{name} {splits[name]}" for name in sorted(splits, key=("train", "val", "test").index))
        steps.append(("clips in the data set", len(table), detail))
    return steps


def stage_table(run_dir: Path) -> list[dict[str, Any]]:
    """Per stage that ran: name, accepted, rejected, failed, reused, seconds, reasons [(reason, count)]."""
    table = []
    for stage in STAGES:
        if not ledger.exists(run_dir, stage):
            continue
        rows = ledger.read(run_dir, stage)
        counts = {status: int((rows["status"] == status).sum()) for status in ("accepted", "rejected", "failed")}
        reasons = Counter(rows.loc[rows["status"] != "accepted", "reason"])
        table.append(
            {
                "stage": stage,
                **counts,
                "reused": int(rows["reused"].fillna(False).sum()),
                "seconds": float(rows["seconds"].sum()),
                "reasons": sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])),
            }
        )
    return table


def _rows(run_dir: Path, stage: str) -> list[Row]:
    return [{str(k): v for k, v in row.items()} for row in ledger.read(run_dir, stage).to_dict("records")]


def _lost(ways: list[Journey], stages: tuple[str, ...]) -> str:
    """`2 rejected: no_face 2; 1 failed: truncated 1`: what was decided against at one of `stages`."""
    parts = []
    for status in ("rejected", "failed"):
        reasons = Counter(way.reason for way in ways if way.status == status and way.last[0] in stages)
        if reasons:
            listed = ", ".join(f"{r} {n}" for r, n in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
            parts.append(f"{sum(reasons.values())} {status}: {listed}")
    return "; ".join(parts)


def _pending(ways: list[Journey]) -> str:
    missing = Counter(name for way in ways for name in FEATURES if name not in way.rows)
    return ", ".join(f"{name} not yet made for {count}" for name, count in missing.items())


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _and(text: str) -> str:
    return f"; {text}" if text else ""
