"""Checkpoints written behind the training's back: what they hold, one at a time, and what goes wrong is said."""

from __future__ import annotations

import threading

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from dualforce_model.errors import BadInput
from dualforce_model.model.files import tensors
from dualforce_model.train import checkpoint, shards
from dualforce_model.train.parallel import Parallel
from dualforce_model.train.saver import SaveError, Saver


@pytest.fixture
def saver(tmp_path) -> Saver:
    return Saver(tmp_path / "checkpoints", Parallel(Accelerator(cpu=True)), keep=2, every=1)


def files(value: float) -> dict:
    weights = {"a": torch.full((5, 3), value), "b": torch.full((7,), -value), "empty": torch.zeros(0, 4)}
    return {"model/model.safetensors": weights}


def test_a_checkpoint_holds_what_was_there_when_it_began(saver):
    given = files(1.0)
    saver.begin(1, given, {"state.json": "{}"})
    for tensor in given["model/model.safetensors"].values():
        tensor.fill_(99.0)  # training goes on
    assert saver.pending
    saver.finish()
    assert not saver.pending
    folder = checkpoint.resolve(saver.root)
    assert dict(tensors(folder / "model"))["a"].unique().tolist() == [1.0]


def test_one_at_a_time_and_only_the_newest_stay(saver, monkeypatch):
    running, most, write = [], [], shards.write

    def watched(*arguments):
        running.append(threading.current_thread())
        most.append(sum(thread.is_alive() for thread in running))
        write(*arguments)

    monkeypatch.setattr(shards, "write", watched)
    for step in range(1, 6):
        saver.begin(step, files(float(step)), {"state.json": "{}"})
        assert checkpoint.newest(saver.root) is None or checkpoint.step_of(checkpoint.newest(saver.root)) == step - 1
    saver.close()
    assert most == [1] * 5
    assert [folder.name for folder in checkpoint.folders(saver.root)] == ["step-000004", "step-000005"]


def test_what_goes_wrong_in_the_writing_is_raised_and_the_last_good_one_stays(saver):
    saver.begin(1, files(1.0), {"state.json": "{}"})
    saver.finish()
    checkpoint.unfinished(saver.root, 2).write_text("in the way")
    saver.begin(2, files(2.0), {"state.json": "{}"})
    with pytest.raises(SaveError, match=r"step-000002 .* process 0: FileExistsError"):
        saver.finish()
    assert not saver.pending
    assert checkpoint.newest(saver.root).name == "step-000001"


def test_a_kill_before_the_marker_leaves_nothing_that_counts(saver):
    saver.begin(1, files(1.0), {"state.json": "{}"})
    saver._thread.join()  # all files are on disk, nobody gave them their marker
    assert checkpoint.newest(saver.root) is None
    checkpoint.clean(saver.root)  # as the next run does
    assert list(saver.root.iterdir()) == []


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_rows_of_several_processes_are_read_by_any_number_and_by_torch_itself(tmp_path):
    whole = {"a": torch.arange(15.0).reshape(5, 3), "b": torch.arange(2.0)}
    for rank, first in enumerate((0, 3)):  # as FSDP2 cuts 5 rows for two, and the second has none of the last
        part = {name: x[first : first + 3] for name, x in whole.items()}
        shards.write(tmp_path / f"shard-{rank + 1:05d}-of-00002.safetensors", part, {"a": first, "b": min(first, 2)})
    assert shards.stored(tmp_path) == {"a": torch.Size([5, 3]), "b": torch.Size([2])}
    assert all(torch.equal(found, whole[name]) for name, found in tensors(tmp_path))
    ours, theirs = ({name: torch.zeros_like(x) for name, x in whole.items()} for _ in range(2))
    shards.read(tmp_path, ours)
    load(theirs, storage_reader=HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(ours[name], x) and torch.equal(theirs[name], x) for name, x in whole.items())
    with pytest.raises(BadInput, match=r"a has shape \(5, 3\), expected \(6, 3\)"):
        shards.read(tmp_path, {"a": torch.zeros(6, 3)})
    with pytest.raises(BadInput, match="c is missing"):
        shards.read(tmp_path, {"c": torch.zeros(1)})
