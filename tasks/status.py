"""What a run folder says about itself: counts per stage, and where every clip stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dualforce_model.store import ledger
from tasks.config import STAGES


def status(run_dir: Path) -> dict[str, Any]:
    """`stages` (counts by stage, reasons among them) and `clips` (one row per item: the last stage that it reached)."""
    stages: dict[str, Any] = {}
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for stage in STAGES:
        if not ledger.exists(run_dir, stage):
            continue
        rows = ledger.read(run_dir, stage)
        counts = {what: int((rows["status"] == what).sum()) for what in ("accepted", "rejected", "failed")}
        reasons = rows.loc[rows["status"] != "accepted", "reason"].value_counts()
        stages[stage] = {
            **counts,
            "reused": int(rows["reused"].sum()),
            "reasons": {str(reason): int(count) for reason, count in sorted(reasons.items())},
            "seconds": round(float(rows["seconds"].sum()), 3),
        }
        for row in rows.to_dict("records"):
            if row["source"]:  # training and its sample belong to the run, not to a clip
                _place(last, stage, row)
    return {"run_dir": str(run_dir), "stages": stages, "clips": [last[key] for key in sorted(last)]}


def _place(last: dict[tuple[str, str], dict[str, Any]], stage: str, row: dict[str, Any]) -> None:
    key = (row["source"], row["clip_id"])
    if row["clip_id"]:
        last.pop((row["source"], ""), None)  # the source gave clips; they speak for it now
    bad = row["status"] != "accepted"
    # side by side stages run after a failed sister too, and her trouble is the news
    if key in last and last[key]["status"] != "accepted" and not bad:
        return
    last[key] = {
        "clip_id": row["clip_id"],
        "source": row["source"],
        "stage": stage,
        "status": row["status"],
        "reason": row["reason"],
        "message": row["message"],
    }


def verdicts(run_dir: Path) -> dict[str, tuple[str, str]]:
    """Per source: (status, reason); accepted when at least one of its clips is."""
    found: dict[str, tuple[str, str]] = {}
    for clip in status(run_dir)["clips"]:
        if found.get(clip["source"], ("",))[0] != "accepted":
            found[clip["source"]] = (clip["status"], clip["reason"])
    return found
