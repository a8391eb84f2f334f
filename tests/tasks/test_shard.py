from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dualforce_model.errors import BadInput, Rejected
from dualforce_model.store import ledger
from tasks import shard
from tasks.config import RunConfig
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage


def copy(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """A small stage: writes one file per item and notes that it was called."""
    with open(run_dir / "calls", "a") as calls:
        calls.write(item.source + "\n")
    kind = item.payload.get("kind")
    if kind == "full" and not (run_dir / "mended").exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "rejected":
        raise Rejected("unwanted", "it is not wanted")
    if kind == "broken":
        raise BadInput("corrupt", "it is broken")
    if kind == "bug":
        raise KeyError("ours")
    (run_dir / item.source).write_text(item.identity)
    return [Row(files=(item.source,), scores={"size": len(item.identity)})]


STAGE = Stage("copy", "", lambda run: [], copy, gives="clips", in_workers=False)


def items(*kinds: str) -> list[Item]:
    return [Item(f"id-{n}", str(n), f"file-{n}", payload={"kind": kind}) for n, kind in enumerate(kinds)]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path, RunConfig())


def calls(run: Run) -> list[str]:
    path = run.dir / "calls"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def bring_up_to_date(run: Run, todo: list[Item], force: bool = False) -> list[shard.Record]:
    """As a stage does it, without Prefect: what stands in the ledger is kept, the rest is done."""
    ledger.begin(run.dir, "copy")
    todo, kept = shard.sort_out(run, STAGE, todo, force)
    records = shard.process(run, STAGE, todo, force=force, log=lambda line: None)
    ledger.write_part(run.dir, "copy", 0, records)
    ledger.finish(run.dir, "copy", kept)
    return ledger.table(run.dir, "copy").to_pylist()


def test_each_outcome_has_its_row_and_only_our_faults_are_tried_again(run):
    todo = items("good", "rejected", "broken", "bug")
    records = bring_up_to_date(run, todo)
    assert [(r["status"], r["reason"], r["retry"]) for r in records] == [
        ("accepted", "", False),
        ("rejected", "unwanted", False),
        ("failed", "corrupt", False),
        ("failed", "KeyError", True),
    ]
    calls(run)
    again = bring_up_to_date(run, todo)
    assert calls(run) == ["file-3"]
    assert shard.tally(again) == {"accepted": 1, "rejected": 1, "failed": 2, "reused": 3}


@pytest.mark.parametrize("harm", ["deleted", "changed", "touched", "other identity"])
def test_a_row_is_reused_only_for_what_it_describes(run, harm):
    todo = items("good", "good")
    bring_up_to_date(run, todo)
    calls(run)
    file = run.dir / "file-1"
    if harm == "deleted":
        file.unlink()
    elif harm == "changed":
        file.write_text("id-x")
    elif harm == "touched":
        file.write_text(file.read_text())  # another time, the same bytes
    else:
        todo[1] = Item("id-new", "1", "file-1")
    bring_up_to_date(run, todo)
    assert calls(run) == ([] if harm == "touched" else ["file-1"])
    bring_up_to_date(run, todo)
    assert calls(run) == []


def test_what_left_the_plan_leaves_the_ledger(run):
    bring_up_to_date(run, items("good", "good", "good"))
    assert [r["source"] for r in bring_up_to_date(run, items("good", "good"))] == ["file-0", "file-1"]


def test_a_plan_in_another_order_than_the_rows_mixes_nothing_up(run):
    todo = items("good", "rejected", "good")
    first = bring_up_to_date(run, todo)
    again = bring_up_to_date(run, todo[::-1])
    assert [row["mtimes"] for row in again] == [row["mtimes"] for row in first]
    assert all(row["reused"] for row in again)


@pytest.mark.parametrize("at", [0.0, 1e9, 4e9], ids=["1970", "2001", "2096"])
def test_no_clock_decides_what_is_valid(run, at):
    todo = items("good", "good")
    bring_up_to_date(run, todo)
    calls(run)
    os.utime(run.dir / "file-0", (at, at))
    again = bring_up_to_date(run, todo)
    assert calls(run) == []
    assert json.loads(again[0]["mtimes"]) == [int(at) * 10**9]  # so that the next run need not read it again


def test_damage_under_a_valid_identity_is_not_taken_for_the_artifact(run):
    reuse = []

    def trusting(item: Item, run_dir: Path, may_reuse: bool) -> list[Row]:
        reuse.append(may_reuse)
        return copy(item, run_dir, may_reuse)

    stage = Stage("copy", "", lambda run: [], trusting, gives="clips", in_workers=False)
    bring_up_to_date(run, items("good", "good"))
    (run.dir / "file-1").write_text("id-x")
    todo, _ = shard.sort_out(run, stage, [*items("good", "good"), Item("id-new", "2", "file-2")])
    shard.process(run, stage, todo)
    assert reuse == [False, True]


def test_a_full_disk_stops_the_shard_and_what_was_done_is_kept(run, monkeypatch):
    monkeypatch.setattr(shard, "SAVE_EVERY_S", 0.0)
    todo, saved = items("good", "good", "full", "good"), []
    with pytest.raises(RunError, match="free some space"):
        shard.process(run, STAGE, todo, save=saved.append)
    assert [r["source"] for r in saved[-1]] == ["file-0", "file-1"]
    calls(run)
    (run.dir / "mended").touch()
    records = shard.process(run, STAGE, todo, saved[-1], force=True)  # an attempt of the same run is not done again
    assert calls(run) == ["file-2", "file-3"]
    assert [r["status"] for r in records] == ["accepted"] * 4


def test_force_does_all_again(run):
    todo = items("good", "rejected")
    bring_up_to_date(run, todo)
    calls(run)
    bring_up_to_date(run, todo, force=True)
    assert calls(run) == ["file-0", "file-1"]
