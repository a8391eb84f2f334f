"""What a run folder says about itself: counts per stage, and where every clip stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualforce_model.report.funnel import journeys, stage_table


def status(run_dir: Path) -> dict[str, Any]:
    """`stages` (counts by stage, reasons among them) and `clips` (per clip, or source without one: what decided)."""
    stages = {row.pop("stage"): {**row, "reasons": dict(row["reasons"])} for row in stage_table(run_dir)}
    clips = []
    for journey in journeys(run_dir):
        stage, row = journey.last
        clips.append(
            {
                "clip_id": journey.clip_id,
                "source": journey.source,
                "stage": stage,
                "status": row["status"],
                "reason": row["reason"],
                "message": row["message"],
            }
        )
    return {"run_dir": str(run_dir), "stages": stages, "clips": clips}


def verdicts(run_dir: Path) -> dict[str, tuple[str, str]]:
    """Per source: (status, reason); accepted when at least one of its clips is."""
    found: dict[str, tuple[str, str]] = {}
    for clip in status(run_dir)["clips"]:
        if found.get(clip["source"], ("",))[0] != "accepted":
            found[clip["source"]] = (clip["status"], clip["reason"])
    return found
