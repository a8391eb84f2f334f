"""The ledger: one row per item and stage, in Parquet parts (one per shard), each published atomically.

Rows say what happened to an item and why. `VOLATILE` columns differ between two runs over the same input; all others
are a pure function of input and configuration, whatever was killed on the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dualforce_model.store.publish import publish

Status = Literal["accepted", "rejected", "failed"]
VOLATILE = ("seconds", "worker", "reused", "finished_at", "mtimes")
SCORE = "score_"

COLUMNS: dict[str, pa.DataType] = {
    "clip_id": pa.string(),  # "" for a row about a source
    "source_id": pa.string(),
    "source": pa.string(),  # path relative to the input folder
    "stage": pa.string(),
    "status": pa.string(),  # accepted | rejected | failed
    "reason": pa.string(),  # short stable name, "" when accepted
    "message": pa.string(),  # the same for people
    "reasons": pa.list_(pa.string()),  # every failing check, first = reason
    "retry": pa.bool_(),  # failed for a cause that may pass: tried again by the next run
    "identity": pa.string(),
    "artifact": pa.string(),  # the main file, relative to the run folder; "" when there is none
    "files": pa.string(),  # JSON [[path, bytes, sha256], ...] of every file of the item
    "bytes": pa.int64(),
    "facts": pa.string(),  # JSON object: what the stage found out that is no score
    "seconds": pa.float64(),
    "worker": pa.string(),
    "reused": pa.bool_(),
    "finished_at": pa.string(),
    "mtimes": pa.string(),  # JSON [mtime_ns, ...] parallel to `files`: equal size and time spare a re-read
}
DEFAULTS: dict[str, Any] = {
    "clip_id": "", "source_id": "", "source": "", "reason": "", "message": "", "retry": False, "identity": "",
    "artifact": "", "bytes": 0, "seconds": 0.0, "worker": "", "reused": False, "finished_at": "",
    "files": "[]", "facts": "{}", "mtimes": "[]",
}  # fmt: skip
CARRY = "part-carry.parquet"  # rows of an earlier shard layout, until every shard of the new one is written


def folder(run_dir: Path, stage: str) -> Path:
    return run_dir / "ledger" / stage


def write_part(run_dir: Path, stage: str, shard: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Publish the rows of one shard. Keys beyond COLUMNS must be `score_<name>` numbers."""
    _write(folder(run_dir, stage) / f"part-{shard:05d}.parquet", list(rows))


def read(run_dir: Path, stage: str) -> pd.DataFrame:
    """All rows of a stage, newest per item, ordered by (source, clip_id). Empty (with columns) if it never ran."""
    frames = [frame for path in _parts(run_dir, stage) if len(frame := pd.read_parquet(path))]
    if not frames:
        return pa.schema(list(COLUMNS.items())).empty_table().to_pandas()
    rows = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    rows = rows.sort_values("finished_at", kind="stable").drop_duplicates(
        ["source", "source_id", "clip_id"], keep="last"
    )
    return rows.sort_values(["source", "clip_id"], kind="stable", ignore_index=True)


def exists(run_dir: Path, stage: str) -> bool:
    """Whether the stage ever wrote a row here."""
    return bool(_parts(run_dir, stage))


def begin(run_dir: Path, stage: str, shards: int) -> None:
    """Before a run of the stage: keep all earlier rows findable while parts are replaced one by one.

    Inserting one item moves others to other shards, so a run killed half-way would otherwise lose rows.
    """
    parts = _parts(run_dir, stage)
    if len(parts) != shards or any(part.name == CARRY for part in parts):
        earlier = read(run_dir, stage)
        if len(earlier):
            _write(folder(run_dir, stage) / CARRY, earlier.to_dict("records"))


def finish(run_dir: Path, stage: str, shards: int) -> None:
    """After all shards are written: drop parts of an earlier layout (their rows live in the new parts)."""
    for path in _parts(run_dir, stage):
        if path.name == CARRY or int(path.stem.removeprefix("part-")) >= shards:
            path.unlink()


def rewrite(run_dir: Path, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Make `rows` all that the stage's ledger says. Killed half-way, the earlier rows still count; do it again."""
    old = _parts(run_dir, stage)
    _write(folder(run_dir, stage) / CARRY, list(rows))
    for path in old:
        if path.name != CARRY:
            path.unlink()


def stages(run_dir: Path) -> list[str]:
    """Names of the stages that have a ledger, in no particular order."""
    root = run_dir / "ledger"
    return sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []


def facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The `facts` of a row as a dict."""
    return json.loads(row["facts"])  # type: ignore[no-any-return]


def scores(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The scores of a row without their column prefix; None for what could not be measured."""
    return {k.removeprefix(SCORE): None if pd.isna(v) else float(v) for k, v in row.items() if k.startswith(SCORE)}


def _parts(run_dir: Path, stage: str) -> list[Path]:
    # the carried rows come first, so that a stable sort by time prefers the newer parts
    return sorted(folder(run_dir, stage).glob("part-*.parquet"), key=lambda p: (p.name != CARRY, p.name))


def _write(path: Path, rows: list[Mapping[str, Any]]) -> None:
    extra = sorted({key for row in rows for key in row if key not in COLUMNS})
    if wrong := [key for key in extra if not key.startswith(SCORE)]:
        raise ValueError(f"ledger rows have no column {', '.join(wrong)}; scores start with {SCORE!r}")
    schema = pa.schema([*COLUMNS.items(), *((key, pa.float64()) for key in extra)])
    columns = {
        name: [_list(row.get(name)) if name == "reasons" else row.get(name, DEFAULTS.get(name)) for row in rows]
        for name in schema.names
    }
    with publish(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def _list(value: Any) -> list[str]:
    return [] if value is None else [str(v) for v in value]
