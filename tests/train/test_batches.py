"""Batches of a process: the same global batches on any number of processes, after any start, through broken files."""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path

import pytest
import torch

from dualforce_model.bench import loader as bench
from dualforce_model.data import Dataset
from dualforce_model.train import TrainConfig
from dualforce_model.train.batches import loader

CONFIG = TrainConfig(batch=4, frames=3, buckets=((40, 2),))
TENSORS = ("video", "struct", "flame", "audio", "reference", "start")


def batches(dataset: Dataset, steps: range, config: TrainConfig = CONFIG, **part) -> list[dict]:
    return list(loader(dataset, config, config.shape(audio_dim=dataset.card["audio_dim"]), steps, **part))


def equal(a: dict, b: dict) -> bool:
    return a["clip_id"] == b["clip_id"] and all(torch.equal(a[name], b[name]) for name in TENSORS)


@pytest.fixture(autouse=True)
def no_prefect(monkeypatch):
    """No training has Prefect in its process, but this one may, by other tests: a fork of it would end with its hooks,
    which wait for threads that no fork has, and with code 1.
    """
    monkeypatch.setattr(threading, "_threading_atexits", [])


@pytest.fixture(scope="module")
def dataset(run_folder) -> Dataset:
    return Dataset.open(run_folder)


@pytest.fixture(scope="module")
def whole(dataset) -> list[dict]:
    return batches(dataset, range(8))


def test_each_step_has_one_of_the_lengths(whole):
    shapes = [tuple(batch["video"].shape[0:3:2]) for batch in whole]
    assert set(shapes) == {(4, 3), (2, 40)}


def test_two_processes_in_pieces_see_the_same_global_batches(dataset, whole):
    config = TrainConfig(batch=4, frames=3)
    alone = batches(dataset, range(4), config)
    ranks = [batches(dataset, range(4), config, rank=rank, world=2, micro=2) for rank in range(2)]
    for step, batch in enumerate(alone):
        pieces = [ranks[rank][2 * step + piece] for rank in range(2) for piece in range(2)]
        assert [clip for piece in pieces for clip in piece["clip_id"]] == batch["clip_id"]
        assert all(torch.equal(torch.cat([p[name] for p in pieces]), batch[name]) for name in TENSORS)


def test_a_resume_goes_on_with_the_very_next_batch_and_loader_processes_change_nothing(dataset, whole):
    late = batches(dataset, range(5, 8), TrainConfig(batch=4, frames=3, buckets=((40, 2),), workers=2))
    assert len(late) == 3
    assert all(equal(a, b) for a, b in zip(late, whole[5:], strict=True))


def test_loader_processes_name_a_broken_file_and_go_on(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    dataset = Dataset.open(tmp_path / "run")
    broken = dataset.clips["train"][0]
    broken.files["flame"].write_bytes(broken.files["flame"].read_bytes()[:-9])
    config = TrainConfig(batch=4, frames=3, workers=2)
    first, second = (batches(dataset, range(6), config) for _ in range(2))
    skipped = [skip for batch in first for skip in batch["skipped"]]
    assert {clip for clip, _ in skipped} == {broken.clip_id}
    assert all(str(broken.files["flame"]) in message for _, message in skipped)
    assert all(broken.clip_id not in batch["clip_id"] and len(batch["clip_id"]) == 4 for batch in first)
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert [batch["skipped"] for batch in second] == [batch["skipped"] for batch in first]


def test_the_bench_counts_windows(tmp_path):
    parser = argparse.ArgumentParser()
    bench.arguments(parser)
    words = "--pixels 64 --audio 80 --clips 3 --latents 20 --workers 0 1 --seconds 0.3"
    found = bench.run(parser.parse_args([*words.split(), "--folder", str(Path(tmp_path))]))
    assert found["by_workers"].keys() == {"0", "1"}
    assert all(one["windows_per_s"] > 0 for one in found["by_workers"].values())
    assert found["eaten_windows_per_s"] == 6.6
    assert found["holds"] == (found["times_what_the_model_eats"] >= 10)
