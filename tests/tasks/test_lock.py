"""Who may work on a run folder beside whom, held by real processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from chain import ROOT

from flows.settings import prepare
from tasks import shard
from tasks.run import RunError, lock, read_config
from tasks.stage import Item

HOLD = """
import sys
from pathlib import Path
from tasks.run import lock
with lock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_elsewhere(folder: Path, stage: str):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder, stage], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_different_features_run_side_by_side_and_nothing_else_does(tmp_path):
    prepare("demo", str(tmp_path))
    with held_elsewhere(tmp_path, "flame") as other:
        with lock(tmp_path, "audio_features"):
            pass
        for stage in ("flame", "quality", ""):
            with pytest.raises(RunError, match=rf"in use by .*process {other.pid}"), lock(tmp_path, stage):
                pass
    with held_elsewhere(tmp_path, "quality") as other:
        for stage in ("flame", "quality", ""):
            with pytest.raises(RunError, match=f"in use by process {other.pid}"), lock(tmp_path, stage):
                pass
    with lock(tmp_path), lock(tmp_path, "quality"), lock(tmp_path, "flame"):  # a pipeline and what is inside it
        pass


def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("not yours")
    with pytest.raises(RunError, match="not a run folder"), lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_settings_of_features_that_start_together_add_up(tmp_path):
    prepare("demo", str(tmp_path))
    code = "import sys; from flows.settings import prepare; prepare(None, sys.argv[1], None, [sys.argv[2]])"
    changes = ["audio_features.mels=64", "reference.count=3", "runner.workers=1", "runner.shard_size=7"]
    started = [subprocess.Popen([sys.executable, "-c", code, tmp_path, change], cwd=ROOT) for change in changes]
    assert [process.wait(120) for process in started] == [0] * len(changes)
    config = read_config(tmp_path)
    assert (config.audio_features.mels, config.reference.count) == (64, 3)
    assert (config.runner.workers, config.runner.shard_size) == (1, 7)


def test_a_stage_has_at_most_two_hundred_shards(tmp_path):
    run = prepare("demo", str(tmp_path), overrides=["runner.shard_size=10"])
    items = [Item(str(n), "", str(n)) for n in range(5003)]
    shards = shard.split(run, items)
    assert len(shards) == 193  # of 26 items; 200 of 25 would leave three over
    assert [item for part in shards for item in part] == items
    assert [len(part) for part in shard.split(run, items[:25])] == [10, 10, 5]
