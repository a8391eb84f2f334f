"""Checkpoint folders: whole or not at all, damage is seen, the last good one never goes."""

import json

import pytest

from dualforce_model.errors import BadInput
from dualforce_model.train import checkpoint


def fill(text):
    def write(folder):
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(text * 1000)
        (folder / "state.json").write_text(json.dumps({"format": 1, "step": 3}))

    return write


@pytest.fixture
def root(tmp_path):
    for step in (100, 200, 300):
        checkpoint.write(tmp_path, step, fill(b"%d" % step))
    return tmp_path


def test_written_folders_are_whole_and_latest_follows(root):
    assert [checkpoint.damage(f) for f in checkpoint.folders(root)] == [None] * 3
    assert checkpoint.newest(root).name == "step-000300"
    assert (root / "latest" / "state.json").exists()
    assert checkpoint.resolve(root / "latest") == checkpoint.resolve(root) == (root / "step-000300").resolve()


def test_a_failing_write_leaves_what_was_there(root):
    def explode(folder):
        fill(b"4")(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(root, 400, explode)
    assert checkpoint.newest(root).name == "step-000300"
    checkpoint.clean(root)
    assert sorted(p.name for p in root.iterdir()) == ["latest", "step-000100", "step-000200", "step-000300"]


@pytest.mark.parametrize("harm", ["truncated", "changed", "missing", "no marker", "marker cut"])
def test_a_harmed_checkpoint_is_named_and_passed_over(root, harm):
    folder, weights = root / "step-000300", root / "step-000300" / "model" / "weights"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif harm == "changed":
        weights.write_bytes(b"4" + weights.read_bytes()[1:])
    elif harm == "missing":
        weights.unlink()
    elif harm == "no marker":
        (folder / "COMPLETE").unlink()
    else:
        (folder / "COMPLETE").write_text((folder / "COMPLETE").read_text()[:40])
    said = []
    assert checkpoint.newest(root, said.append).name == "step-000200"
    assert len(said) == 1
    assert "step-000300" in said[0]
    with pytest.raises(BadInput) as error:
        checkpoint.resolve(folder)
    assert error.value.reason == "damaged_checkpoint"
    checkpoint.write(root, 300, fill(b"300"))  # training comes by again
    assert checkpoint.newest(root).name == "step-000300"


def test_pruning_keeps_the_newest(root):
    checkpoint.prune(root, 300, 2, every=100)
    assert [f.name for f in checkpoint.folders(root)] == ["step-000200", "step-000300"]
    checkpoint.prune(root, 300, 1, every=100)
    assert [f.name for f in checkpoint.folders(root)] == ["step-000300"]


@pytest.mark.parametrize("keep", [1, 2])
def test_pruning_never_takes_what_was_just_saved(root, keep):
    (root / "step-000300" / "model" / "weights").write_bytes(b"rotten")  # its marker says nothing of that
    checkpoint.write(root, 250, fill(b"250"))
    checkpoint.prune(root, 250, keep, every=100)
    assert checkpoint.newest(root).name == "step-000250"


def test_damaged_ones_beyond_the_newest_good_one_are_set_aside_and_count_for_nothing(root):
    for _ in range(2):  # the second time at the same step
        (root / "step-000300" / "model" / "weights").write_bytes(b"rotten")
        said = []
        checkpoint.set_aside(root, checkpoint.newest(root, said.append), said.append)
        assert len(said) == 2
        assert checkpoint.newest(root, said.append) == root / "step-000200"
        assert len(said) == 2
        assert (root / "latest").resolve() == root / "step-000200"
        checkpoint.write(root, 300, fill(b"300"))
    checkpoint.clean(root)
    assert sorted(p.name for p in root.glob("damaged-*")) == ["damaged-step-000300", "damaged-step-000300-2"]
    assert (root / "damaged-step-000300" / "model" / "weights").read_bytes() == b"rotten"
    checkpoint.set_aside(root, checkpoint.newest(root), said.append)  # nothing to do
    assert checkpoint.resolve(root / "latest").name == "step-000300"


def test_where_all_are_damaged_all_are_set_aside(root):
    for folder in checkpoint.folders(root):
        (folder / "COMPLETE").unlink()
    checkpoint.set_aside(root, checkpoint.newest(root), lambda _: None)
    assert sorted(p.name for p in root.iterdir()) == [f"damaged-step-000{step}" for step in (100, 200, 300)]


def test_a_stopped_run_ends_with_the_folders_of_an_undisturbed_one(root):
    for step in (350, 400):  # 350: saved because the run was told to stop
        checkpoint.write(root, step, fill(b"x"))
        checkpoint.prune(root, step, 2, every=100)
        assert checkpoint.newest(root).name == f"step-000{step}"
    assert [f.name for f in checkpoint.folders(root)] == ["step-000300", "step-000400"]


def test_no_checkpoint_is_a_clear_error(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadInput) as error:
            checkpoint.resolve(path)
        assert error.value.reason == "no_checkpoint"
