"""From a batch of windows to a loss: which model the dataset needs, which conditions it gets, which noise it sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dualforce_model.data import Sample
from dualforce_model.diffusion import Batch, Terms, training_terms
from dualforce_model.features.flame import CAMERA, EXPRESSION
from dualforce_model.model import Conditions, DualForce, ModelConfig
from dualforce_model.train.config import TrainConfig

FACIAL = slice(EXPRESSION.start, CAMERA.start)  # FLAME parameters that a face shows: expression, pose, jaw


def measured_flame(card: Mapping[str, Any]) -> np.ndarray:
    """Indices of the facial FLAME parameters that this dataset's extractor measures."""
    counts = np.asarray(card["stats"]["flame"]["count"])
    return FACIAL.start + np.flatnonzero(counts[FACIAL] > 0)


def model_config(config: TrainConfig, card: Mapping[str, Any]) -> ModelConfig:
    """The config's model, its inputs and readouts as wide as the dataset's features."""
    return config.shape(audio_dim=card["audio_dim"], flame_dim=len(measured_flame(card)))


class Objective:
    """The loss of a batch of windows."""

    def __init__(self, config: TrainConfig, card: Mapping[str, Any], device: torch.device):
        self.device = device
        self.flame = torch.from_numpy(measured_flame(card)).to(device)
        self.noise, self.drops, self.weights = config.levels, config.drops, config.losses

    def __call__(self, model: nn.Module, sample: Sample, generator: torch.Generator) -> Terms:
        """Loss terms of the windows in `sample`; all noise and dropout come from `generator`."""
        on = {key: value.to(self.device) for key, value in sample.items() if torch.is_tensor(value)}
        batch = Batch(
            video=on["video"],
            struct=on["struct"] if _whole(model).struct is not None else None,
            conditions=Conditions(audio=on["audio"], audio_valid=on["audio_valid"], reference=on["reference"]),
            start=on["start"],
            valid=on["frame_valid"],
            struct_valid=on["struct_valid"],
            flame=on["flame"][..., self.flame],
            flame_valid=on["flame_valid"][..., self.flame].all(-1),
        )
        return training_terms(model, batch, generator, self.noise, self.drops, self.weights)


def _whole(model: nn.Module) -> DualForce:
    """The model itself, wrapped for several processes or not."""
    inner = getattr(model, "module", model)
    assert isinstance(inner, DualForce)
    return inner
