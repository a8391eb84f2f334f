"""Pictures on the way: reference, originals, generated frames; the same each time they are asked for."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch._functorch import config as functorch

from dualforce_model.data import Dataset
from dualforce_model.features import codec
from dualforce_model.model import DualForce
from dualforce_model.store import read_tensors
from dualforce_model.train import TrainConfig
from dualforce_model.train.log import read
from dualforce_model.train.loop import train
from dualforce_model.train.objective import model_config
from dualforce_model.train.samples import COLUMNS, Sampler

SIZE = 96


def test_a_picture_shows_the_held_out_person_and_what_was_generated(run_folder, tmp_path):
    dataset, config = Dataset.open(run_folder), TrainConfig(frames=3, sample_steps=2)
    torch.manual_seed(0)
    model = DualForce(model_config(config, dataset.card))
    sampler = Sampler(config, dataset, model.config, tmp_path)
    with Image.open(sampler.write(model, 3)) as image:
        picture = np.asarray(image)
    assert sampler.write(model, 3) == tmp_path / "samples" / "step-000003.png"
    (clip,) = dataset.clips["val"]
    people = 1 + len(dataset.clips["train"])  # the one who is held out comes first
    assert picture.shape == (2 * SIZE * min(3, people), (1 + COLUMNS) * SIZE, 3)
    original = codec.decode(read_tensors(clip.files["video_latents"])["latents"][:, :8])
    np.testing.assert_array_equal(picture[:SIZE, SIZE : 2 * SIZE], original[0])
    np.testing.assert_array_equal(picture[:SIZE, -SIZE:], original[28])
    generated = picture[SIZE : 2 * SIZE, SIZE:].astype(float)
    # an untrained model that says how a frame differs from the reference gives back something near the reference
    reference = np.tile(picture[:SIZE, :SIZE], (1, COLUMNS, 1)).astype(float)
    assert 0 < np.abs(generated - reference).mean() < 20


@pytest.fixture(scope="module")
def watched(run_folder, tmp_path_factory):
    """A run that is sampled and validated, and its log."""
    out = tmp_path_factory.mktemp("watched")
    config = TrainConfig(
        steps=5, batch=2, frames=3, sample_every=4, sample_steps=1, validate_every=3, validate_windows=3, norms_every=2
    )
    train(config, run_folder, out, lambda _: None)
    return out, read(out / "log.jsonl")


def test_recorded_steps_are_the_same_steps(watched, run_folder, tmp_path):
    _, plain = watched
    config = TrainConfig(steps=5, batch=2, frames=3, norms_every=2, graph=True)
    train(config, run_folder, tmp_path, lambda _: None)
    steps = [row for row in plain if "loss" in row]
    for there, here in zip(steps, read(tmp_path / "log.jsonl"), strict=True):
        assert {name: here.get(name) for name in ("loss", "grad_norm", "norm_video")} == {
            name: there.get(name) for name in ("loss", "grad_norm", "norm_video")
        }


def test_norms_that_are_not_computed_are_said_to_be_missing(run_folder, tmp_path):
    before, said = functorch.donated_buffer, []
    functorch.donated_buffer = True
    try:
        config = TrainConfig(steps=2, batch=2, frames=3, norms_every=1, accumulate=2)
        train(config, run_folder, tmp_path, said.append)
        assert functorch.donated_buffer  # memory that the norms would need stays free
    finally:
        functorch.donated_buffer = before
    assert sum("no norms per term" in line for line in said) == 1
    assert not any("norm_video" in row for row in read(tmp_path / "log.jsonl"))


def test_samples_and_numbers_of_a_run(watched):
    out, rows = watched
    assert [row["step"] for row in rows if "sample" in row] == [4, 5]  # and the last step
    assert all((out / row["sample"]).is_file() for row in rows if "sample" in row)
    assert [row["step"] for row in rows if "val_loss" in row] == [3]
    assert [row["step"] for row in rows if "norm_video" in row] == [2, 4]
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 5
    for row in steps:
        assert {
            "loss",
            "loss_video",
            "loss_struct",
            "grad_norm",
            "lr",
            "skipped",
            "seconds",
            "data_seconds",
        } <= row.keys()
        assert row["tokens_per_s"] == pytest.approx(2 * 3 * (36 + 4) / row["seconds"], rel=0.05)
        assert row["tflops"] >= 0
        assert 0.05 < row["memory_gib"] < 30
        assert [len(row[name]) for name in ("deciles_video", "deciles_struct")] == [10, 10]
    drawn = [value for row in steps for value in row["deciles_video"] if value is not None]
    assert min(drawn) > 0


def test_tensorboard_has_the_numbers_of_the_log(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, rows = watched
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("loss/loss")}
    expected = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert losses == pytest.approx(expected, rel=1e-6)
    names = set(events.Tags()["scalars"])
    assert {"validation/loss", "gradient norm/video", "run/lr", "run/tokens_per_s", "run/data_seconds"} <= names
    assert any(name.startswith("loss by sigma/video 0.") for name in names)
    assert [event.step for event in events.Images("samples")] == [4, 5]


def test_held_out_files_that_are_broken_end_no_training(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    (clip,) = Dataset.open(tmp_path / "run").clips["val"]
    clip.files["flame"].write_bytes(b"")
    said = []
    config = TrainConfig(steps=2, batch=2, frames=3, sample_every=2, validate_every=2)
    assert train(config, tmp_path / "run", tmp_path / "out", said.append).state == "finished"
    assert any(line.startswith(f"clip {clip.clip_id} is left out of the samples") for line in said)
    assert any(line.startswith("no validation: none of the 1 clips can be read") for line in said)
    with Image.open(tmp_path / "out" / "samples" / "step-000002.png") as image:
        assert image.height == 2 * SIZE * len(Dataset.open(run_folder).clips["train"][:2])  # of those in training
