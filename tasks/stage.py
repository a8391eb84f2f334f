"""What a stage is: a plan of items, and work on one item. The engine in `tasks.shard` does everything else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow.compute as pc

from dualforce_model.download import deny
from dualforce_model.store import ledger
from dualforce_model.store.remote import Stored
from tasks.run import Run, RunError


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to do. `identity` is a hash of everything that decides the result; equal identity, equal bytes."""

    identity: str
    source_id: str
    source: str
    clip_id: str = ""
    payload: dict[str, Any] = field(default_factory=dict)  # what `work` needs, plain or picklable
    cost: float = 0.0  # rough size; large items start first, so that workers end together
    needs: tuple[Stored, ...] = ()  # of a run in shared storage: what `work` reads, to be fetched before
    redo: bool = False  # what lies there under this identity is not what was made: damaged since, so not to be taken

    @property
    def key(self) -> tuple[str, str]:
        return (self.source, self.clip_id)


@dataclass(frozen=True)
class Row:
    """What became of an item (or of one of the clips an item gave). `files` are relative to the run folder."""

    status: Literal["accepted", "rejected", "failed"] = "accepted"
    reason: str = ""
    message: str = ""
    reasons: tuple[str, ...] = ()
    clip_id: str = ""  # this and the next two: where they are not the item's own
    source_id: str = ""
    source: str = ""
    files: tuple[str, ...] = ()  # first = the artifact
    scores: dict[str, float | None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    retry: bool = False


# (run, work on one item, items) -> (index, result of that work) as they end
Spread = Callable[[Run, Callable[[Item], Any], Sequence[Item]], Iterator[tuple[int, Any]]]


@dataclass(frozen=True)
class Stage:
    """A stage of the workflow.

    `plan` lists the items from the ledgers upstream, in a fixed order. `work(item, run_dir, reuse)` does one item (in a
    worker process, so it is a module-level function) and returns its rows; with `reuse` it may take a whole artifact of
    the same identity that it finds on disk. Errors it raises become rows; see `dualforce_model.errors`.
    """

    name: str
    folder: str  # of the run folder, where its artifacts go; "" for none or for the run folder itself
    plan: Callable[[Run], Sequence[Item]]
    work: Callable[[Item, Path, bool], list[Row]]
    gives: Literal["clip", "clips", "dataset"] = "clip"  # rows of an item: one, those of a source, those of the run
    reads: tuple[str, ...] = ()  # stages whose files `work` opens, those of the item's clip or source
    reads_all: tuple[str, ...] = ()  # stages of which it opens the files of every clip
    plans_from: tuple[str, ...] = ()  # stages whose files `plan` opens, and not their ledgers alone
    takes_up: bool = False  # `work` takes over what it finds of its own, made for an item of another identity
    in_workers: bool = True  # False: the item is one long job that brings its own processes (training)
    spread: Spread | None = None  # instead of workers: does all items of a shard in its own way


WANTED = ("source", "source_id", "clip_id", "identity", "artifact", "bytes")  # of an earlier stage's rows


def upstream(run: Run, stage: str, *more: str) -> pd.DataFrame:
    """Accepted rows of an earlier stage: the columns WANTED and those asked for. Raises RunError when it never ran."""
    if not ledger.exists(run.dir, stage):
        raise RunError(f"stage {stage!r} has not run in {run.dir}; run it first (or leave out --from / --only)")
    names = [*WANTED, *more]
    table = ledger.table(run.dir, stage, [*names, "status"])
    table = table.filter(pc.equal(table["status"], "accepted"))
    # plain Python values: rows are looked at one by one, for which pandas' own strings take five times as long
    rows = pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=object) for name in names})
    if denied := deny.read(run.dir):  # at once, whatever an earlier run made of it
        keys = rows[["source", "source_id", "clip_id"]].itertuples(index=False)
        rows = rows[[not deny.denies(denied, *key) for key in keys]]
    return rows


def clip_items(rows: pd.DataFrame, identity: Callable[[Any], str], **payload: Any) -> list[Item]:
    """One item per row of clips; `identity` gets the row."""
    return [
        Item(identity(row), row.source_id, row.source, row.clip_id, payload, cost=row.bytes)
        for row in rows.itertuples(index=False)
    ]


def row_facts(row: Any) -> dict[str, Any]:
    return json.loads(row.facts)  # type: ignore[no-any-return]
