"""The engine of every stage: reuse what is valid, do the rest in worker processes, record each item in the ledger.

A shard of items is one Prefect task run: long enough to be worth its overhead, short enough to be retried. A killed
shard starts again from the rows that it had saved.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from dualforce_model.errors import BadInput, Rejected
from dualforce_model.store import digest_file, ledger
from tasks.pool import WorkerDied, WorkerHung, shared
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage

Record = dict[str, Any]  # a ledger row
Key = tuple[str, str]
SAVE_EVERY_S = 3.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OutputFull(RunError):
    """Nothing more can be written; going on would only turn every item into a failure."""


@contextlib.contextmanager
def room_on_disk(run_dir: Path) -> Iterator[None]:
    """Turn a full disk, wherever it is met in the block, into OutputFull."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutputFull(
                f"cannot write to {run_dir}: {error.strerror}; free some space and run again, nothing is lost"
            ) from error
        raise


def split(run: Run, items: Sequence[Item]) -> list[list[Item]]:
    """Cut a plan into shards, in order."""
    size = run.config.runner.shard_size
    return [list(items[i : i + size]) for i in range(0, len(items), size)]


def previous_records(run: Run, stage: Stage) -> dict[Key, list[Record]]:
    """Earlier ledger rows of a stage by item."""
    found: dict[Key, list[Record]] = defaultdict(list)
    for record in ledger.read(run.dir, stage.name).to_dict("records"):
        source = "" if stage.gives == "dataset" else record["source"]
        found[source, record["clip_id"] if stage.gives == "clip" else ""].append(record)
    return dict(found)


def process(
    run: Run,
    stage: Stage,
    items: Sequence[Item],
    previous: dict[Key, list[Record]],
    *,
    force: bool = False,
    log: Callable[[str], None] = print,
    progress: Callable[[int], None] = lambda done: None,
    save: Callable[[list[Record]], None] = lambda records: None,
) -> list[Record]:
    """Rows for all `items`, in their order. Raises OutputFull; any other trouble with an item becomes its row.

    `save` gets the rows so far every few seconds (earlier rows stand in for items that are not done yet), so that a
    killed shard loses seconds of work and not minutes.
    """
    records: dict[int, list[Record]] = {}
    saved_at = time.monotonic()
    todo: list[int] = []
    for index, item in enumerate(items):
        earlier = previous.get(item.key, [])
        if not force and earlier and _reusable(run.dir, item, earlier):
            records[index] = [{**record, "reused": True} for record in earlier]
        else:
            todo.append(index)
    progress(len(records))
    todo.sort(key=lambda index: -items[index].cost)

    function = partial(_work, stage.work, run.dir, not force)
    results: Iterable[tuple[int, Any]]
    if stage.spread is not None:
        results = stage.spread(run, function, [items[i] for i in todo])
    elif stage.in_workers:
        pool = shared(run.config.runner.processes)
        results = pool.map(function, [items[i] for i in todo], run.config.runner.clip_timeout_s)
    else:
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
            save([r for index, item in enumerate(items) for r in records.get(index, previous.get(item.key, []))])
            saved_at = time.monotonic()
    return [record for index in range(len(items)) for record in records[index]]


def tally(records: Iterable[Record]) -> dict[str, int]:
    """How many rows were accepted, rejected, failed; and how many of all were reused."""
    counts = Counter[str](accepted=0, rejected=0, failed=0, reused=0)
    for record in records:
        counts[record["status"]] += 1
        counts["reused"] += bool(record["reused"])
    return dict(counts)


def _reusable(run_dir: Path, item: Item, records: list[Record]) -> bool:
    """Same identity, nothing that asks for a retry, and every file still what it was when it was recorded."""
    for record in records:
        if record["identity"] != item.identity or record["retry"]:
            return False
        times = json.loads(record["mtimes"])
        for n, (name, size, sha256) in enumerate(json.loads(record["files"])):
            try:
                stat = (run_dir / name).stat()
            except OSError:
                return False
            if stat.st_size != size:
                return False
            # equal size and time spare reading every byte of a large run; anything else is read and compared
            if stat.st_mtime_ns != times[n]:
                if digest_file(run_dir / name) != sha256:
                    return False
                times[n] = stat.st_mtime_ns
        record["mtimes"] = json.dumps(times)
    return True


def _work(work: Callable[[Item, Path, bool], list[Row]], run_dir: Path, reuse: bool, item: Item) -> tuple[Any, float]:
    """In the worker: rows or the exception, and the seconds it took."""
    begun = time.monotonic()
    try:
        result: Any = work(item, run_dir, reuse)
    except (Rejected, BadInput) as verdict:
        result = [Row("rejected" if isinstance(verdict, Rejected) else "failed", verdict.reason, str(verdict))]
    except OSError as error:
        result = error if error.errno in FULL else [_failed(error)]
    except Exception as error:  # noqa: BLE001  (one item must not stop thousands: it becomes a row that says why)
        result = [_failed(error)]
    if isinstance(result, list):
        result = [(row, _files(run_dir, row)) for row in result]
    return result, time.monotonic() - begun


def _failed(error: Exception) -> Row:
    where = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
    return Row("failed", type(error).__name__, f"{error}{place}", retry=True)


def _files(run_dir: Path, row: Row) -> list[tuple[str, int, str, int]]:
    stats = [(name, (run_dir / name).stat()) for name in row.files]
    return [(name, stat.st_size, digest_file(run_dir / name), stat.st_mtime_ns) for name, stat in stats]


def _records(run_dir: Path, stage: str, item: Item, result: Any) -> list[Record]:
    seconds = 0.0
    rows: Any
    if isinstance(result, WorkerDied):
        rows = [(Row("failed", "worker_died", str(result), retry=True), [])]
    elif isinstance(result, WorkerHung):
        rows = [(Row("failed", "timeout", str(result), retry=True), [])]
    elif isinstance(result, Exception):
        rows = [(_failed(result), [])]
    else:
        rows, seconds = result
        if isinstance(rows, OSError):
            with room_on_disk(run_dir):
                raise rows
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
