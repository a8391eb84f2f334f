"""What a run folder says about itself: counts per stage, and where every clip stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualforce_model.report.funnel import Story, stage_table


def status(run_dir: Path) -> dict[str, Any]:
    """`stages` (counts by stage, reasons among them) and `clips` (per clip, or source without one: what decided)."""
    story = Story(run_dir)
    stages = {row.pop("stage"): {**row, "reasons": dict(row["reasons"])} for row in stage_table(story)}
    messages = {stage: rows["message"].tolist() for stage, rows in story.ledgers.items()}
    clips = [
        {
            "clip_id": way.clip_id,
            "source": way.source,
            "stage": way.last,
            "status": way.status,
            "reason": way.reason,
            "message": messages[way.last][way.steps[way.last].at],
        }
        for way in story.ways
    ]
    return {"run_dir": str(run_dir), "stages": stages, "clips": clips}


def verdicts(run_dir: Path) -> dict[str, tuple[str, str]]:
    """Per source: (status, reason); accepted when at least one of its clips is."""
    found: dict[str, tuple[str, str]] = {}
    for way in Story(run_dir).ways:
        if found.get(way.source, ("",))[0] != "accepted":
            found[way.source] = (way.status, way.reason)
    return found
