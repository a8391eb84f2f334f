"""The engine of every stage: reuse what is valid, do the rest in worker processes, record each item in the ledger.

A shard of items is one Prefect task run: long enough to be worth its overhead, short enough to be retried. A killed
shard starts again from the rows that it had saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dualforce_model.errors import BadInput, Rejected
from dualforce_model.store import digest_file, ledger
from dualforce_model.store.remote import NotInStore, Remote, Stored, StoreError
from tasks import devices
from tasks.pool import WorkerDied, WorkerHung, leave_gpus, shared
from tasks.run import NO_WRITING, Run, unwritable
from tasks.stage import Item, Row, Stage

Record = dict[str, Any]  # a ledger row
Key = tuple[str, str]
File = tuple[str, int, str, int]  # name, bytes, sha256, mtime_ns
CHECKED = ("identity", "retry", "files", "mtimes")  # columns that say whether a row still stands
SAVE_EVERY_S = 3.0
MOST_SHARDS = 200  # of one run of a stage, so that the dashboard's graph of it stays readable


@contextlib.contextmanager
def room_on_disk(run_dir: Path) -> Iterator[None]:
    """Turn a full (or read-only) disk, wherever it is met in the block, into a RunError."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_WRITING:
            raise unwritable(run_dir, error) from error
        raise


def split(run: Run, items: Sequence[Item]) -> list[list[Item]]:
    """Cut what is to be done into shards, in order."""
    size = max(run.config.runner.shard_size, -(-len(items) // MOST_SHARDS))
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def sort_out(
    run: Run, stage: Stage, items: Sequence[Item], force: bool = False, remote: Remote | None = None
) -> tuple[list[Item], pa.Table]:
    """What of a plan has to be done, and the ledger rows of all the rest, marked as reused.

    Looks at columns and not at rows: as dicts, 50,000 of them would take hundreds of megabytes.
    """
    rows = ledger.table(run.dir, stage.name)
    if force or not rows.num_rows:
        return list(items), rows.slice(0, 0)
    columns = {name: rows[name].to_pylist() for name in ("source", "clip_id", *CHECKED)}
    at: dict[Key, list[int]] = defaultdict(list)
    for n, (source, clip_id) in enumerate(zip(columns["source"], columns["clip_id"], strict=True)):
        at[_key(stage, source, clip_id)].append(n)
    todo: list[Item] = []
    kept: list[int] = []
    whole = _on_disk(run.dir) if remote is None else _in_store(remote.sizes(stage.folder))
    for item in items:
        mine = at.get(item.key, [])
        times = _still_valid(whole, item, [tuple(columns[name][n] for name in CHECKED) for n in mine])
        if times is None:
            known = any(columns["identity"][n] == item.identity for n in mine)
            todo.append(dataclasses.replace(item, redo=known))
        else:
            kept += mine
            for n, found in zip(mine, times, strict=True):
                columns["mtimes"][n] = found
    kept.sort()  # the plan may be in another order than the rows
    if len(kept) < rows.num_rows:
        rows = rows.take(pa.array(kept, pa.int64()))
    values = {
        "mtimes": pa.array([columns["mtimes"][n] for n in kept], pa.string()),
        "reused": pa.array([True] * len(kept), pa.bool_()),
    }
    for name, column in values.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return todo, rows


def process(
    run: Run,
    stage: Stage,
    items: Sequence[Item],
    saved: Iterable[Record] = (),
    *,
    force: bool = False,
    remote: Remote | None = None,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] = lambda done: None,
    save: Callable[[list[Record]], None] = lambda records: None,
) -> list[Record]:
    """Rows for all `items`, in their order; trouble with an item becomes its row. Raises RunError when the disk is full.

    `save` gets the rows so far every few seconds, so that a killed shard loses seconds of work and not minutes; what
    was `saved` by an earlier attempt at the shard is not done again.
    """
    earlier: dict[Key, list[Record]] = defaultdict(list)
    for record in saved:
        earlier[_key(stage, record["source"], record["clip_id"])].append(record)
    records: dict[int, list[Record]] = {}
    saved_at = time.monotonic()
    todo: list[int] = []
    whole = _on_disk(run.dir) if remote is None else _in_store(None)
    for index, item in enumerate(items):
        mine = earlier.get(item.key, [])
        times = _still_valid(whole, item, [tuple(record[name] for name in CHECKED) for record in mine])
        if times is None:
            todo.append(index)
        else:
            records[index] = [{**record, "mtimes": found} for record, found in zip(mine, times, strict=True)]
    progress(len(records))
    todo.sort(key=lambda index: -items[index].cost)

    function = partial(_work, stage.work, run.dir, not force, remote)
    results: Iterable[tuple[int, Any]]
    if stage.spread is not None:
        results = stage.spread(run, function, [items[i] for i in todo])
    elif stage.in_workers:
        pool = shared(*devices.workers(run.config, stage.name))
        results = pool.map(function, [items[i] for i in todo], run.config.runner.clip_timeout_s)
    else:
        if todo and devices.slots(run.config, stage.name):
            leave_gpus()
        results = ((n, function(items[i])) for n, i in enumerate(todo))
    for n, result in results:
        item = items[todo[n]]
        records[todo[n]] = _records(run.dir, stage.name, item, result)
        for record in records[todo[n]]:
            if record["status"] != "accepted":
                log(
                    f"{record['clip_id'] or record['source']}: {record['status']}, {record['reason']}: {record['message']}"
                )
        progress(len(records))
        if time.monotonic() - saved_at > SAVE_EVERY_S:
            save([record for index in sorted(records) for record in records[index]])
            saved_at = time.monotonic()
    return [record for index in range(len(items)) for record in records[index]]


def tally(records: Iterable[Record]) -> dict[str, int]:
    """How many rows were accepted, rejected, failed; and how many of all were reused."""
    counts = Counter[str](accepted=0, rejected=0, failed=0, reused=0)
    for record in records:
        counts[record["status"]] += 1
        counts["reused"] += bool(record["reused"])
    return dict(counts)


def _key(stage: Stage, source: str, clip_id: str) -> Key:
    """`Item.key` of the item that a row is about."""
    return "" if stage.gives == "dataset" else source, clip_id if stage.gives == "clip" else ""


Whole = Callable[[list[list[Any]], list[int]], list[int] | None]  # recorded files and their times -> those of now


def _still_valid(whole: Whole, item: Item, rows: Sequence[tuple[Any, ...]]) -> list[str] | None:
    """The present `mtimes` of an item's rows (each of `CHECKED`), or None when it has to be done (again).

    Rows stand as long as they have the item's identity, ask for no retry, and every file is what was recorded.
    """
    times = []
    for identity, retry, files, mtimes in rows:
        if identity != item.identity or retry:
            return None
        if files != "[]":
            found = whole(json.loads(files), json.loads(mtimes))
            if found is None:
                return None
            mtimes = json.dumps(found)
        times.append(mtimes)
    return times or None


def _on_disk(run_dir: Path) -> Whole:
    """Equal size and time spare reading every byte of a large run; a file of another time is read and compared."""

    def whole(files: list[list[Any]], times: list[int]) -> list[int] | None:
        for n, (name, size, sha256) in enumerate(files):
            path = os.path.join(run_dir, name)
            try:
                stat = os.stat(path)
            except OSError:
                return None
            if stat.st_size != size:
                return None
            if stat.st_mtime_ns != times[n]:
                if digest_file(Path(path)) != sha256:
                    return None
                times[n] = stat.st_mtime_ns
        return times

    return whole


def _in_store(sizes: Mapping[str, int] | None) -> Whole:
    """What is listed with its size counts as there; who fetches it looks at the bytes. None: rows alone are believed."""

    def whole(files: list[list[Any]], times: list[int]) -> list[int] | None:
        there = sizes is None or all(sizes.get(Stored(*file).key) == file[1] for file in files)
        return times if there else None

    return whole


def _work(
    work: Callable[[Item, Path, bool], list[Row]], run_dir: Path, reuse: bool, remote: Remote | None, item: Item
) -> tuple[Any, float]:
    """In the worker: rows or the exception, and the seconds it took. Of a run in shared storage, all files are there
    when it returns. Raises StoreError.
    """
    begun = time.monotonic()
    try:
        if remote is not None:
            remote.fetch(run_dir, item.needs)
        result: Any = work(item, run_dir, reuse and not item.redo)
    except (Rejected, BadInput) as verdict:
        result = [Row("rejected" if isinstance(verdict, Rejected) else "failed", verdict.reason, str(verdict))]
    except StoreError:
        raise
    except OSError as error:
        result = error if error.errno in NO_WRITING else [_failed(error)]
    except Exception as error:  # noqa: BLE001  (one item must not stop thousands: it becomes a row that says why)
        result = [_failed(error)]
    if isinstance(result, list):
        result = [(row, _files(run_dir, row)) for row in result]
        if remote is not None:
            remote.put(run_dir, {Stored(*file[:3]) for _, files in result for file in files})
    return result, time.monotonic() - begun


def _failed(error: Exception) -> Row:
    if isinstance(error, NotInStore):
        return Row("failed", error.reason, str(error), retry=True)
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return Row("failed", type(error).__name__, f"{error}{place}", retry=True)


def _files(run_dir: Path, row: Row) -> list[File]:
    stats = [(name, (run_dir / name).stat()) for name in row.files]
    return [(name, stat.st_size, digest_file(run_dir / name), stat.st_mtime_ns) for name, stat in stats]


def _records(run_dir: Path, stage: str, item: Item, result: Any) -> list[Record]:
    if isinstance(result, WorkerDied):
        return records_of(run_dir, stage, item, [Row("failed", "worker_died", str(result), retry=True)])
    if isinstance(result, WorkerHung):
        return records_of(run_dir, stage, item, [Row("failed", "timeout", str(result), retry=True)])
    if isinstance(result, StoreError):
        raise result  # it is about no item; the shard is tried again
    if isinstance(result, Exception):
        return records_of(run_dir, stage, item, [_failed(result)])
    rows, seconds = result
    if isinstance(rows, OSError):
        with room_on_disk(run_dir):
            raise rows
    return _with_files(stage, item, rows, seconds)


def records_of(run_dir: Path, stage: str, item: Item, rows: Sequence[Row], seconds: float = 0.0) -> list[Record]:
    """Ledger rows of what became of an item, its files as they are now."""
    return _with_files(stage, item, [(row, _files(run_dir, row)) for row in rows], seconds)


def _with_files(stage: str, item: Item, rows: Sequence[tuple[Row, list[File]]], seconds: float) -> list[Record]:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return [
        {
            "clip_id": row.clip_id or item.clip_id,
            "source_id": row.source_id or item.source_id,
            "source": row.source or item.source,
            "stage": stage,
            "status": row.status,
            "reason": row.reason,
            "message": row.message,
            "reasons": list(row.reasons or ((row.reason,) if row.reason else ())),
            "retry": row.retry,
            "identity": item.identity,
            "artifact": row.files[0] if row.files else "",
            "files": json.dumps([file[:3] for file in files]),
            "bytes": sum(size for _, size, _, _ in files),
            "facts": json.dumps(row.facts, sort_keys=True),
            **{
                ledger.SCORE + name: float("nan") if value is None else float(value)
                for name, value in row.scores.items()
            },
            "seconds": seconds / len(rows),
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "reused": False,
            "finished_at": now,
            "mtimes": json.dumps([file[3] for file in files]),
        }
        for row, files in rows
    ]
