"""Stage `quality`: measure every clip once; the verdict is made of stored scores, so thresholds change for free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from dualforce_model import config as configs
from dualforce_model import quality
from dualforce_model.media import Clip
from dualforce_model.quality import QualityConfig
from dualforce_model.store import identity, ledger
from tasks.run import Run, RunError
from tasks.shard import Record
from tasks.stage import Item, Row, Stage, clip_items, upstream


def plan(run: Run) -> list[Item]:
    """One item per clip. Thresholds are no part of the identity: they only decide the verdict, see `judge`."""
    config = run.config.measure
    settings, weights = configs.to_dict(config), quality.weights_of(config)

    def mine(row: Any) -> str:
        return identity(
            stage="quality",
            version=quality.MEASURE_VERSION,
            config=settings,
            weights=weights,
            clip=row.identity,
            clip_id=row.clip_id,
        )

    return clip_items(upstream(run, "face_crop"), mine, config=config)


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Measure one clip."""
    return [Row(scores=quality.measure(Clip(run_dir / "clips", item.clip_id), item.payload["config"]))]


def judge(records: list[Record], thresholds: QualityConfig) -> list[Record]:
    """The same rows with verdicts from their stored scores. Rows that could not be measured stay failed, and rows that
    lack a score (another version measured them, and they are about to be measured again) stay as they are.
    """
    needed = {ledger.SCORE + check.score for check in quality.CHECKS}
    judged = []
    for record in records:
        if record["status"] != "failed" and needed <= record.keys():
            problems = quality.verdict(ledger.scores(record), thresholds)
            record = {
                **record,
                "status": "rejected" if problems else "accepted",
                "reason": problems[0][0] if problems else "",
                "message": "; ".join(text for _, text in problems),
                "reasons": [reason for reason, _ in problems],
            }
        judged.append(record)
    return judged


def refilter(run: Run) -> pd.DataFrame:
    """New verdicts for every clip from its stored scores under the run's thresholds; nothing is measured again."""
    if not ledger.exists(run.dir, "quality"):
        raise RunError(f"{run.dir} has no quality scores yet; run the stage 'quality' first")
    rows = ledger.read(run.dir, "quality")
    if lacking := {check.score for check in quality.CHECKS if ledger.SCORE + check.score not in rows.columns}:
        raise RunError(
            f"the clips were measured by another version, without {', '.join(sorted(lacking))}; run quality again"
        )
    ledger.rewrite(run.dir, "quality", judge(rows.to_dict("records"), run.config.quality))
    return ledger.read(run.dir, "quality")


STAGE = Stage("quality", "", plan, work)
