"""Stage `quality`: measure every clip once; the verdict is made of stored scores, so thresholds change for free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from dualforce_model import config as configs
from dualforce_model import quality
from dualforce_model.faces import identity as who
from dualforce_model.media import Clip
from dualforce_model.quality import QualityConfig
from dualforce_model.store import identity, ledger, write_tensors
from tasks import working_copy
from tasks.run import Run, RunError
from tasks.shard import Record
from tasks.stage import Item, Row, Stage, clip_items, upstream

PERSONS = "features/persons"  # ArcFace's vector of each clip, where it is measured
VERDICT = ("status", "reason", "message", "reasons")  # columns that thresholds decide


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
    """Measure one clip; who is seen in it is kept, where that is measured, for telling people apart later."""
    clip, config = Clip(run_dir / "clips", item.clip_id), item.payload["config"]
    if config.identity == "none":
        return [Row(scores=quality.measure(clip, config))]
    embedded = who.embed(clip)
    scores = quality.measure(clip, config, embedded)
    if not len(embedded):
        return [Row(scores=scores)]
    name = f"{PERSONS}/{item.clip_id}.safetensors"
    write_tensors(
        run_dir / name, {"person": who.person(embedded)}, {"identity": item.identity, "clip_id": item.clip_id}
    )
    return [Row(files=(name,), scores=scores)]


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


def judge_table(rows: pa.Table, thresholds: QualityConfig) -> pa.Table:
    """The same for a whole ledger, a piece at a time: as dicts, all of a large one would take hundreds of megabytes."""
    pieces = []
    for start in range(0, rows.num_rows, ledger.GROUP):
        piece = rows.slice(start, ledger.GROUP)
        records = piece.to_pylist()
        judged = judge(records, thresholds)
        changed = any(new[name] != old[name] for new, old in zip(judged, records, strict=True) for name in VERDICT)
        pieces.append(ledger.table_of(judged) if changed else piece)
    return pa.concat_tables(pieces, promote_options="default") if pieces else rows


def refilter(run: Run) -> pd.DataFrame:
    """New verdicts for every clip from its stored scores under the run's thresholds; nothing is measured again."""
    with working_copy.changed(run, ["quality"]):
        if not ledger.exists(run.dir, "quality"):
            raise RunError(f"{run.dir} has no quality scores yet; run the stage 'quality' first")
        rows = ledger.table(run.dir, "quality")
        if lacking := {check.score for check in quality.CHECKS if ledger.SCORE + check.score not in rows.column_names}:
            raise RunError(
                f"the clips were measured by another version, without {', '.join(sorted(lacking))}; run quality again"
            )
        ledger.rewrite(run.dir, "quality", judge_table(rows, run.config.quality))
    return ledger.read(run.dir, "quality")


STAGE = Stage("quality", PERSONS, plan, work, reads=("face_crop",))
