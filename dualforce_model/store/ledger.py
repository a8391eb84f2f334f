"""The ledger: one row per item and stage. `rows.parquet` holds what a stage said when it last ended; beside it lie the
parts of a run that goes on (or was killed), one per shard, and they are newer. Each file is published atomically.

Rows say what happened to an item and why. `VOLATILE` columns differ between two runs over the same input; all others
are a pure function of input and configuration, whatever was killed on the way. Nothing here is decided by a clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
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
KEY = ("source", "source_id", "clip_id")
ORDER = [("source", "ascending"), ("clip_id", "ascending")]
TABLE = "rows.parquet"
GROUP = 8192  # rows that a reader of one clip decodes at least


def folder(run_dir: Path, stage: str) -> Path:
    return run_dir / "ledger" / stage


def part_path(run_dir: Path, stage: str, shard: int) -> Path:
    """Where one shard of the present run writes its rows."""
    return folder(run_dir, stage) / f"part-{shard:05d}.parquet"


def write_part(run_dir: Path, stage: str, shard: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Publish the rows of one shard. Keys beyond COLUMNS must be `score_<name>` numbers."""
    _publish(part_path(run_dir, stage, shard), table_of(list(rows)))


def read(run_dir: Path, stage: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows of a stage, newest per item, ordered by (source, clip_id). Empty (with columns) if it never ran.

    `columns` names the few that are wanted; of a large run the others are what takes the time.
    """
    return table(run_dir, stage, columns).to_pandas()


def table(
    run_dir: Path, stage: str, columns: Sequence[str] | None = None, where: tuple[str, Iterable[str]] | None = None
) -> pa.Table:
    """The same as an Arrow table, which for 50,000 rows is several times smaller and quicker.

    `where`: a column of KEY and the values of it that are wanted.
    """
    filters = None if where is None else [(where[0], "in", sorted(set(where[1])))]
    for _ in range(20):
        paths = _paths(run_dir, stage)
        needed = None if columns is None else list(dict.fromkeys([*columns, *(KEY if len(paths) > 1 else ())]))
        try:
            tables = [pq.read_table(path, columns=needed, partitioning=None, filters=filters) for path in paths]
            break
        except FileNotFoundError:  # the run just ended and made one table of its parts: look again
            continue
    else:
        raise OSError(f"the ledger {folder(run_dir, stage)} changes faster than it can be read")
    rows = _merged(tables)
    return rows if columns is None else rows.select([name for name in columns if name in rows.column_names])


def of_clip(run_dir: Path, clip_id: str) -> dict[str, dict[str, Any]]:
    """Every stage's row of one clip, and `source` where the ledger of the sources has it. Empty for an unknown clip."""
    found = {}
    for stage in stages(run_dir):
        if rows := table(run_dir, stage, where=("clip_id", [clip_id])).to_pylist():
            found[stage] = rows[0]
    if found and "source" not in found and exists(run_dir, "source"):
        (source,) = {row["source"] for row in found.values()}
        if rows := table(run_dir, "source", where=("source", [source])).to_pylist():
            found["source"] = rows[0]
    return found


def part(run_dir: Path, stage: str, shard: int) -> list[dict[str, Any]]:
    """The rows that one shard of the present run has written so far."""
    path = part_path(run_dir, stage, shard)
    return pq.read_table(path, partitioning=None).to_pylist() if path.exists() else []


def exists(run_dir: Path, stage: str) -> bool:
    """Whether the stage ever wrote a row here."""
    return bool(_paths(run_dir, stage))


def begin(run_dir: Path, stage: str) -> None:
    """Before a run of the stage: make one table of what a killed run left, so that all parts from now on are new ones.

    Inserting one item moves others to other shards, so parts of two runs side by side would hide each other's rows.
    """
    if parts := _parts(run_dir, stage):
        _publish(folder(run_dir, stage) / TABLE, table(run_dir, stage))
        _remove(parts)


def finish(run_dir: Path, stage: str, kept: pa.Table | None = None) -> None:
    """After all shards are written: `kept` (rows that needed no part) and the parts are what the stage says from now on."""
    parts = _parts(run_dir, stage)
    tables = [pq.read_table(path, partitioning=None) for path in parts]
    whole = _merged([*([] if kept is None else [kept]), *tables])
    path = folder(run_dir, stage) / TABLE
    if parts or not (path.exists() and whole.equals(_merged([pq.read_table(path, partitioning=None)]))):
        _publish(path, whole)
    _remove(parts)


def rewrite(run_dir: Path, stage: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> None:
    """Make `rows` all that the stage's ledger says. Killed half-way, the earlier rows still count; do it again."""
    begin(run_dir, stage)
    whole = rows if isinstance(rows, pa.Table) else table_of(list(rows))
    _publish(folder(run_dir, stage) / TABLE, _merged([whole]))


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


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table with the ledger's columns. Raises ValueError for a column that is neither known nor a score."""
    extra = sorted({key for row in rows for key in row if key not in COLUMNS})
    if wrong := [key for key in extra if not key.startswith(SCORE)]:
        raise ValueError(f"ledger rows have no column {', '.join(wrong)}; scores start with {SCORE!r}")
    schema = pa.schema([*COLUMNS.items(), *((key, pa.float64()) for key in extra)])
    columns = {
        name: [_list(row.get(name)) if name == "reasons" else row.get(name, DEFAULTS.get(name)) for row in rows]
        for name in schema.names
    }
    return pa.table(columns, schema=schema)


def _merged(tables: Sequence[pa.Table]) -> pa.Table:
    """One table in the ledger's order; where several speak of an item, the last one counts."""
    tables = [found for found in tables if found.num_rows]
    if not tables:
        return pa.schema(list(COLUMNS.items())).empty_table()
    whole = pa.concat_tables(tables, promote_options="default") if len(tables) > 1 else tables[0]
    whole = whole.replace_schema_metadata(None)
    if len(tables) > 1:
        at = whole.select(list(KEY)).append_column("at", pa.array(range(whole.num_rows)))
        newest = at.group_by(list(KEY)).aggregate([("at", "max")])["at_max"].combine_chunks()
        if len(newest) < whole.num_rows:
            whole = whole.take(newest.sort())
    names = [key for key, _ in ORDER]
    if not set(names) <= set(whole.column_names):
        return whole
    order = pc.sort_indices(whole.select(names), sort_keys=ORDER)
    in_order = pc.all(pc.equal(order, pa.array(range(len(order)), pa.uint64()))).as_py()
    return whole if in_order else whole.take(order)


def _paths(run_dir: Path, stage: str) -> list[Path]:
    """Files of a stage's ledger, older rows first."""
    whole = folder(run_dir, stage) / TABLE
    return [*([whole] if whole.exists() else []), *_parts(run_dir, stage)]


def _parts(run_dir: Path, stage: str) -> list[Path]:
    return sorted(folder(run_dir, stage).glob("part-*.parquet"))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink()


def _publish(path: Path, rows: pa.Table) -> None:
    with publish(path) as temporary:
        pq.write_table(rows, temporary, row_group_size=GROUP)


def _list(value: Any) -> list[str]:
    return [] if value is None else [str(v) for v in value]
