from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dualforce_model.errors import BadInput, Rejected
from tasks import shard
from tasks.config import RunConfig
from tasks.run import Run
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


def by_item(records):
    return {(record["source"], ""): [record] for record in records}


def test_each_outcome_has_its_row_and_only_our_faults_are_tried_again(run):
    todo = items("good", "rejected", "broken", "bug")
    records = shard.process(run, STAGE, todo, {}, log=lambda line: None)
    assert [(r["status"], r["reason"], r["retry"]) for r in records] == [
        ("accepted", "", False),
        ("rejected", "unwanted", False),
        ("failed", "corrupt", False),
        ("failed", "KeyError", True),
    ]
    calls(run)
    again = shard.process(run, STAGE, todo, by_item(records), log=lambda line: None)
    assert calls(run) == ["file-3"]
    assert shard.tally(again) == {"accepted": 1, "rejected": 1, "failed": 2, "reused": 3}


@pytest.mark.parametrize("harm", ["deleted", "changed", "touched", "other identity"])
def test_a_row_is_reused_only_for_what_it_describes(run, harm):
    todo = items("good", "good")
    records = shard.process(run, STAGE, todo, {})
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
    shard.process(run, STAGE, todo, by_item(records))
    assert calls(run) == ([] if harm == "touched" else ["file-1"])


def test_a_full_disk_stops_the_shard_and_what_was_done_is_kept(run, monkeypatch):
    monkeypatch.setattr(shard, "SAVE_EVERY_S", 0.0)
    todo, saved = items("good", "good", "full", "good"), []
    with pytest.raises(shard.OutputFull, match="free some space"):
        shard.process(run, STAGE, todo, {}, save=saved.append)
    assert [r["source"] for r in saved[-1]] == ["file-0", "file-1"]
    calls(run)
    (run.dir / "mended").touch()
    records = shard.process(run, STAGE, todo, by_item(saved[-1]))
    assert calls(run) == ["file-2", "file-3"]
    assert [r["status"] for r in records] == ["accepted"] * 4


def test_force_does_all_again(run):
    todo = items("good", "rejected")
    records = shard.process(run, STAGE, todo, {}, log=lambda line: None)
    calls(run)
    shard.process(run, STAGE, todo, by_item(records), force=True, log=lambda line: None)
    assert calls(run) == ["file-0", "file-1"]
