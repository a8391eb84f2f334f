"""Stages that begin with the weights of another: what is loaded, what is new, what is left, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualforce_model.data import Dataset
from dualforce_model.errors import BadInput
from dualforce_model.model import DualForce
from dualforce_model.train import TrainConfig, checkpoint, start
from dualforce_model.train.log import read
from dualforce_model.train.loop import train
from dualforce_model.train.objective import model_config

SMALL = {"batch": 2, "frames": 3, "checkpoint_every": 100}
VIDEO = TrainConfig(stage="video", steps=3, **SMALL)


@pytest.fixture(scope="module")
def video(run_folder, tmp_path_factory) -> Path:
    """The checkpoint folder of a short pretraining of the video tower."""
    out = tmp_path_factory.mktemp("video")
    train(VIDEO, run_folder, out, lambda _: None)
    return out


@pytest.fixture(scope="module")
def joint(run_folder, video, tmp_path_factory) -> tuple[Path, list[str]]:
    """Joint training that started from it, and what it said."""
    out, said = tmp_path_factory.mktemp("joint"), []
    train(TrainConfig(steps=3, start_from=str(video), **SMALL), run_folder, out, said.append)
    return out, said


def expected(config: TrainConfig, card) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: p.shape for name, p in DualForce(model_config(config, card)).named_parameters()}


def begin(config: TrainConfig, run_folder: Path, **card) -> start.Start:
    facts = {**Dataset.open(run_folder).card, **card}
    return start.begin(config, start.source(config, run_folder), facts, expected(config, facts), lambda _: None)


def test_pretraining_is_the_video_tower_alone(video):
    rows = [row for row in read(video / "log.jsonl") if "loss" in row]
    assert {name for name in rows[0] if name.startswith("loss")} == {"loss", "loss_video"}
    told = start.read(video)
    assert told["stage"] == "video"
    assert told["start"] is None
    assert {part.partition(".")[0] for part in told["new"]} == {"video"}


def test_what_is_loaded_is_the_averaged_weights_and_all_of_them(run_folder, video):
    config = TrainConfig(start_from=str(video), **SMALL)
    found = dict(begin(config, run_folder).weights)
    source = dict(start.weights_of(checkpoint.newest(video)))
    assert (
        found.keys()
        == source.keys()
        == {n for n in expected(config, Dataset.open(run_folder).card) if n.startswith("video.")}
    )
    assert all(torch.equal(found[name], source[name]) for name in source)


def test_the_joint_stage_says_what_it_loaded_and_what_is_new(joint, video):
    out, said = joint
    (line,) = [line for line in said if line.startswith("starting from")]
    assert "(stage video, step 3)" in line
    assert "loaded 76 tensors (video 76); new here 105 tensors (bridges 26, struct 79); left there 0 tensors" in line
    told = start.read(out)
    assert told["start"]["stage"] == "video"
    assert told["start"]["digest"] == start.digest(checkpoint.newest(video))
    assert sum(told["loaded"].values()) == 76
    assert sum(told["new"].values()) == 105
    assert told["before"]["stage"] == "video"


def test_going_back_to_one_tower_says_what_was_left(run_folder, joint):
    found = begin(TrainConfig(stage="video", start_from=str(joint[0]), **SMALL), run_folder)
    assert sum(found.lineage["left"].values()) == 105
    assert found.lineage["new"] == {}
    assert found.lineage["before"]["before"]["stage"] == "video"  # the whole descent


def test_a_changed_setting_of_the_model_is_told(run_folder, video):
    found = begin(TrainConfig(start_from=str(video), reference_spread=0.3, **SMALL), run_folder)
    assert found.lineage["changed"] == {"reference_spread": [0.02, 0.3]}


def test_another_shape_is_refused_by_name(run_folder, video):
    with pytest.raises(BadInput, match=r"video\.blocks.*has.*256|is \(.*\), here") as error:
        begin(TrainConfig(start_from=str(video), model={"video.ffn": 128}, **SMALL), run_folder)
    assert error.value.reason == "other_shape"


def test_features_made_in_another_way_are_refused(run_folder, video):
    features = Dataset.open(run_folder).card["features"]
    other = {**features, "video_latents": {**features["video_latents"], "backend": "wan_vae"}}
    with pytest.raises(BadInput, match="wan_vae") as error:
        begin(TrainConfig(start_from=str(video), **SMALL), run_folder, features=other)
    assert error.value.reason == "mixed_provenance"


def test_a_checkpoint_that_is_not_there_is_refused(run_folder):
    with pytest.raises(BadInput) as error:
        begin(TrainConfig(start_from="nowhere", **SMALL), run_folder)
    assert error.value.reason == "no_checkpoint"


def test_another_start_is_another_run(run_folder, joint, video, tmp_path):
    out = joint[0]
    config = TrainConfig(steps=3, start_from=str(video), **SMALL)
    assert start.objections(config, run_folder, out) == []
    assert "now starts fresh" in start.objections(TrainConfig(steps=3, **SMALL), run_folder, out)[0]
    other = TrainConfig(steps=3, start_from=str(out), **SMALL)
    assert "it started from checkpoint" in start.objections(other, run_folder, out)[0]
    assert "it started from checkpoint" in start.objections(config, run_folder, out, checkpoint.newest(out))[0]
    with pytest.raises(BadInput, match="belongs to another run: it started from checkpoint"):
        train(other, run_folder, out, lambda _: None)


def test_few_step_tuning_starts_from_its_teacher_and_goes_on_after_a_stop(run_folder, joint, tmp_path):
    config = TrainConfig(stage="few_step", start_from=str(joint[0]), steps=4, **SMALL)
    train(config, run_folder, tmp_path, lambda _: None)
    rows = [row for row in read(tmp_path / "log.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    told = start.read(tmp_path)
    assert (told["stage"], told["start"]["stage"], told["new"], told["left"]) == ("few_step", "joint", {}, {})


@pytest.fixture
def digested(monkeypatch) -> list[Path]:
    """Checkpoints whose files were all read, in order."""
    found, damage = [], checkpoint.damage

    def noted(folder: Path) -> str | None:
        found.append(folder.parent)
        return damage(folder)

    monkeypatch.setattr(checkpoint, "damage", noted)
    return found


def test_a_checkpoint_is_digested_once_and_only_when_it_is_loaded(run_folder, joint, video, tmp_path, digested):
    few = TrainConfig(stage="few_step", start_from=str(joint[0]), steps=2, **SMALL)
    train(few, run_folder, tmp_path, lambda _: None)
    assert digested == [joint[0]]
    digested.clear()
    train(few, run_folder, tmp_path, lambda _: None)
    assert digested == [tmp_path, joint[0]]  # the teacher is loaded again
    digested.clear()
    train(TrainConfig(steps=3, start_from=str(video), **SMALL), run_folder, joint[0], lambda _: None)
    assert digested == [joint[0]]  # and its source is not


def test_a_student_whose_teacher_rotted_does_not_learn_from_another(run_folder, video, tmp_path):
    teachers, out = tmp_path / "teachers", tmp_path / "out"
    shorter = {**SMALL, "checkpoint_every": 1}
    train(TrainConfig(steps=2, start_from=str(video), **shorter), run_folder, teachers, lambda _: None)
    few = TrainConfig(stage="few_step", start_from=str(teachers), steps=2, **SMALL)
    train(few, run_folder, out, lambda _: None)
    weights = checkpoint.newest(teachers) / "ema" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadInput, match="it started from checkpoint"):
        train(few, run_folder, out, lambda _: None)


def test_a_source_whose_newest_was_damaged_when_this_began_is_still_the_same(run_folder, video, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    train(TrainConfig(stage="video", steps=2, **{**SMALL, "checkpoint_every": 1}), run_folder, source, lambda _: None)
    weights = checkpoint.newest(source) / "ema" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    config = TrainConfig(steps=1, start_from=str(source), **SMALL)
    train(config, run_folder, out, lambda _: None)
    assert start.objections(config, run_folder, out) == []
