from __future__ import annotations

from pathlib import Path

import numpy as np
import prepared
import pytest
import torch
from worded import random_text, worded

from dualforce_model.generate.talker import Talker
from dualforce_model.media import Clip
from dualforce_model.train import TrainConfig
from dualforce_model.train.loop import train


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are fastest with one thread, and the machine's other core has work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, shared_data) -> Path:
    """Made once for all rooms that read it; nobody writes into it."""
    return prepared.run_folder(tmp_path_factory, shared_data)


@pytest.fixture(scope="session")
def checkpoint(run_folder, tmp_path_factory) -> Path:
    """A few steps of training: the model is poor, but nothing in it is zero any more."""
    out = tmp_path_factory.mktemp("checkpoints")
    return train(TrainConfig(steps=12, batch=4, frames=3, seed=1), run_folder, out, lambda _: None).checkpoint


@pytest.fixture(scope="session")
def checkpoint_without_struct(run_folder, tmp_path_factory) -> Path:
    """The video tower alone."""
    out = tmp_path_factory.mktemp("checkpoints")
    alone = {"struct": None, "bridge": {"strategy": "none"}}
    return train(TrainConfig(steps=2, batch=2, frames=3, model=alone), run_folder, out, lambda _: None).checkpoint


@pytest.fixture(scope="session")
def checkpoint_with_text(run_folder, tmp_path_factory) -> Path:
    """Trained on clips of which one has a caption."""
    root = tmp_path_factory.mktemp("worded")
    folder = worded(run_folder, root / "run", {"good_hdtf_may": random_text(3)})
    return train(TrainConfig(steps=2, batch=2, frames=3), folder, root / "checkpoints", lambda _: None).checkpoint


@pytest.fixture(scope="session")
def checkpoint_of_short_memory(run_folder, tmp_path_factory) -> Path:
    """A model that was made for windows of 2 latents, trained on 3."""
    out = tmp_path_factory.mktemp("checkpoints")
    short = TrainConfig(steps=1, batch=2, frames=3, model={"window": 2})
    return train(short, run_folder, out, lambda _: None).checkpoint


@pytest.fixture(scope="session")
def talker(checkpoint) -> Talker:
    return Talker.load(checkpoint, "cpu")


@pytest.fixture(scope="session")
def clip(run_folder) -> Clip:
    """Somebody whom training did not see."""
    return Clip(run_folder / "clips", "good_retalk1_700_30-s0t0")


@pytest.fixture(scope="session")
def picture(clip) -> np.ndarray:
    return next(iter(clip.frames()))


@pytest.fixture(scope="session")
def speech(clip) -> np.ndarray:
    """1.2 s and a bit: the last frame is not full."""
    return clip.audio()[: 30 * 640 + 100]
