"""Training with captions: they steer the clips that have one, the others get the null token, and the draws stay the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from worded import WIDTH, random_text, worded

from dualforce_model.configs.forcing import DropRates
from dualforce_model.data import Dataset, WindowReader, collate
from dualforce_model.diffusion import generator_for
from dualforce_model.errors import BadInput
from dualforce_model.model import DualForce
from dualforce_model.train import TrainConfig, checkpoint, start
from dualforce_model.train.log import read
from dualforce_model.train.loop import train
from dualforce_model.train.objective import Objective, model_config
from dualforce_model.train.throughput import text_tokens

ONE, OTHER = "good_hdtf_may", "good_hdtf_aoc"  # of the train split
CONFIG = TrainConfig(steps=2, batch=2, frames=3, drops=DropRates(text=0.0))


@pytest.fixture(scope="module")
def dataset(run_folder, tmp_path_factory) -> Dataset:
    return Dataset.open(worded(run_folder, tmp_path_factory.mktemp("worded") / "run", {ONE: random_text(9)}))


@pytest.fixture(scope="module")
def model(dataset) -> DualForce:
    """Of random weights: a fresh one's gates let nothing through."""
    torch.manual_seed(0)
    model = DualForce(model_config(CONFIG, dataset.card))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.05)
    return model


@pytest.fixture
def samples(dataset) -> list[dict]:
    """A window of the clip with a caption, and one of the clip without."""
    clips = [next(clip for clip in dataset.clips["train"] if clip.clip_id.startswith(name)) for name in (ONE, OTHER)]
    return [{**WindowReader(dataset.card, 3, 16, 4).read(clip, 4, 0.0), "skipped": []} for clip in clips]


def prepared(dataset, samples, config=CONFIG):
    keys = [generator_for("noise", 0, n) for n in range(len(samples))]
    return Objective(config, dataset.card, torch.device("cpu")).prepare(collate(samples), keys)


def losses(dataset, model, samples, config=CONFIG) -> list[float]:
    """What each clip of a batch contributes: the loss with the frames of the others taken for missing."""
    found = []
    for n in range(len(samples)):
        given = prepared(dataset, samples, config)
        given.batch.valid = given.batch.valid & (torch.arange(len(samples)) == n)[:, None]
        found.append(Objective(config, dataset.card, torch.device("cpu"))(model, given).total.item())
    return found


def without_text(samples):
    return [{name: value for name, value in sample.items() if name != "text"} for sample in samples]


def test_a_caption_changes_the_loss_of_its_clip_alone(dataset, model, samples):
    before = losses(dataset, model, samples)
    samples[0]["text"] = torch.from_numpy(random_text(9, seed=1))
    after = losses(dataset, model, samples)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_clip_without_a_caption_gets_the_null_token(dataset, model, samples):
    null = losses(dataset, model, without_text(samples))
    mixed = losses(dataset, model, samples)
    assert mixed[1] == pytest.approx(null[1], rel=1e-6)
    assert mixed[0] != pytest.approx(null[0], rel=1e-6)
    # and so does one whose caption is drawn to be dropped
    dropped = losses(dataset, model, samples, replace(CONFIG, drops=DropRates(text=1.0)))
    assert dropped == pytest.approx(null, rel=1e-6)
    # a batch without any is bit for bit one of a dataset without any
    alone = samples[1:]
    assert losses(dataset, model, alone) == losses(dataset, model, without_text(alone))


def test_the_draws_are_the_same_whatever_is_said(dataset, samples):
    with_text, without = prepared(dataset, samples).drawn, prepared(dataset, without_text(samples)).drawn
    for name in ("video_noise", "struct_noise", "drop_audio", "drop_text", "drop_reference"):
        assert torch.equal(getattr(with_text, name), getattr(without, name)), name
    assert torch.equal(with_text.levels.video, without.levels.video)


def test_every_weight_of_the_text_has_a_gradient_in_a_batch_without_any(dataset, model, samples):
    """Processes that shard the weights add up the gradients that they have: all must have the same ones."""
    given = prepared(dataset, samples[1:])
    Objective(CONFIG, dataset.card, torch.device("cpu"))(model, given).total.backward()
    without = [name for name, parameter in model.named_parameters() if ".text." in name and parameter.grad is None]
    model.zero_grad()
    assert without == []


def test_text_counts_as_work(samples):
    assert text_tokens(collate(samples)) == 5  # nine and the null token
    assert text_tokens(collate(without_text(samples))) == 1


def test_a_training_reads_captions_says_so_and_is_gone_on_from(dataset, tmp_path, run_folder):
    folder = dataset.clips["train"][0].files["flame"].parents[2]
    train(CONFIG, folder, tmp_path / "out", lambda _: None)
    assert [row["step"] for row in read(tmp_path / "out" / "log.jsonl") if "loss" in row] == [1, 2]
    found = checkpoint.newest(tmp_path / "out")
    card = checkpoint.read_json(found, "dataset.json")["card"]
    assert card["features"]["text"]["backend"] == "umt5"
    assert json.loads((found / "ema" / "config.json").read_text())["text_dim"] == WIDTH

    config = replace(CONFIG, start_from=str(tmp_path / "out"))
    shapes = {name: parameter.shape for name, parameter in DualForce(model_config(config, card)).named_parameters()}
    other = {**dataset.card, "features": {**dataset.card["features"], "text": {"backend": "other"}}}
    assert start.begin(config, found, dataset.card, shapes, lambda _: None).lineage["new"] == {}
    with pytest.raises(BadInput, match="trained on text made by"):
        start.begin(config, found, other, shapes, lambda _: None)
    wordless = Dataset.open(run_folder).card
    assert start.begin(config, found, {**wordless, "text_dim": WIDTH}, shapes, lambda _: None).lineage["left"] == {}


def test_who_never_read_a_text_may_begin_to(dataset, run_folder, tmp_path):
    plain = replace(CONFIG, model={"text_dim": WIDTH})
    train(plain, run_folder, tmp_path / "out", lambda _: None)
    config = replace(plain, start_from=str(tmp_path / "out"))
    shapes = {name: p.shape for name, p in DualForce(model_config(config, dataset.card)).named_parameters()}
    source = start.source(config, run_folder)
    assert start.begin(config, source, dataset.card, shapes, lambda _: None).lineage["new"] == {}
