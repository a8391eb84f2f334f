"""Shipped trainings and ablations: each is a whole config, and an ablation changes what it says and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualforce_model import config as configs
from dualforce_model.config import ConfigError
from dualforce_model.configs.shape import ABLATIONS
from dualforce_model.train.config import TrainConfig, lineage
from flows.settings import SHIPPED, load
from tasks.config import TRAININGS, RunConfig

TRAINED = sorted(path.stem for path in TrainConfig.SHIPPED.glob("*.yaml"))
DEEP = {"preset": "mova_lite"}  # deep enough for every ablation

# what each ablation is to change, beside what follows from it: keys of the model (dotted) and of the noise
CHANGES = {
    "no_struct": {"struct", "bridge.strategy"},
    "no_bridge": {"bridge.strategy"},
    "struct_to_video": {"bridge.direction"},
    "video_to_struct": {"bridge.direction"},
    "bridge_4": {"bridge.depth"},
    "bridge_12": {"bridge.depth"},
    "bridge_full": {"bridge.strategy"},
    "bridge_distributed": {"bridge.strategy"},
    "bridge_progressive": {"bridge.strategy"},
    "struct_sigma_0.5": {"noise.sigma_s_max"},
    "struct_sigma_0.7": {"noise.sigma_s_max"},
    "struct_packed": {"struct_tokens"},
    "no_lookahead": {"audio_lookahead_ms"},
}


def flat(values: dict, before: str = "") -> dict:
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def resolved(config: TrainConfig) -> dict:
    """All that decides model and noise, flat."""
    model = configs.to_dict(config.shape())
    return flat({**model, "struct": str(model["struct"]), "noise": configs.to_dict(config.levels)})


def test_every_ablation_is_listed_here():
    assert CHANGES.keys() == ABLATIONS.keys()


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_says_in_a_training(name):
    base, changed = TrainConfig(**DEEP), configs.build(TrainConfig, {**DEEP, "ablation": name})
    before, after = resolved(base), resolved(changed)
    assert {key for key in before if before[key] != after[key]} == CHANGES[name]
    assert lineage(base) != lineage(changed)  # another training, in a folder of its own


@pytest.mark.parametrize("name", TRAINED)
def test_a_shipped_training_is_whole_and_can_be_changed(name):
    config = configs.load(TrainConfig, Path(name), ["steps=7"])
    assert config.preset == name
    assert config.steps == 7
    spelled = configs.to_dict(configs.load(RunConfig, None, [f"train={name}", "train.steps=7"]).train)
    assert spelled == configs.to_dict(config)


def test_mova_lite_is_shared_by_8_gpus():
    config = configs.load(TrainConfig, Path("mova_lite"))
    assert all(windows % 8 == 0 for windows in (config.batch, *(windows for _, windows in config.buckets)))


def test_the_stages_of_a_run_each_have_a_config_of_their_own():
    run = configs.load(RunConfig, None, ["train_video=small", "train.start_from=train_video", "train_few={}"])
    assert [getattr(run, name).stage for name in TRAININGS] == ["video", "joint", "few_step"]
    assert run.train_video.shape().struct is None
    assert run.train_few.start_from == "train"
    plain = configs.load(RunConfig, None)
    assert (plain.train_video, plain.train_few) == (None, None)
    again = configs.build(RunConfig, configs.to_dict(run))  # as run.json keeps it
    assert again == run


@pytest.mark.parametrize("config", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_shipped_run_config_is_whole(config, tmp_path):
    assert load(config, tmp_path).name == config


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train=smal", ["train", "'smal'", "did you mean 'small'"]),
        ("train_video.stage=joint", ["train_video.stage", "'joint' is not one of 'video'"]),
        ("train_vide.steps=3", ["train_vide.steps", "did you mean 'train_video.steps'"]),
        ("train.noise.sigma_max=1", ["train.noise.sigma_max", "'train.noise.sigma_s_max'"]),
        ("train.drops.audio=2", ["train.drops", "share"]),
        ("train.losses={lips: 1}", ["train.losses.lips", "'lip'"]),
        ("train.model={video.layerz: 3}", ["train.model", "video.layerz", "video.layers"]),
        ("train.ablation=no_strukt", ["train.model", "no_strukt", "no_struct"]),
        ("train.ablation=bridge_12", ["do not fit into 2 layers"]),
        ("train.buckets=[[4, 2]]", ["train.buckets", "longer"]),
        ("train_few.start_from=null", ["train_few.start_from"]),
        ("train.spike=0.5", ["train.spike"]),
    ],
)
def test_what_is_wrong_is_said_when_the_config_is_read(assignment, words):
    with pytest.raises(ConfigError) as error:
        configs.load(RunConfig, None, [assignment])
    assert all(word in str(error.value) for word in words), str(error.value)
