"""From a batch of windows to a loss: which model the dataset needs, which conditions it gets, which noise it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualforce_model.data import Sample
from dualforce_model.diffusion import Batch, Draw, Terms, draw_each, learned, terms_of
from dualforce_model.diffusion.few_step import taught
from dualforce_model.diffusion.step import Targets
from dualforce_model.features.flame import CAMERA, EXPRESSION
from dualforce_model.model import Conditions, DualForce, ModelConfig
from dualforce_model.train.config import TrainConfig

FACIAL = slice(EXPRESSION.start, CAMERA.start)  # FLAME parameters that a face shows: expression, pose, jaw


def measured_flame(card: Mapping[str, Any]) -> np.ndarray:
    """Indices of the facial FLAME parameters that this dataset's extractor measures."""
    counts = np.asarray(card["stats"]["flame"]["count"])
    return FACIAL.start + np.flatnonzero(counts[FACIAL] > 0)


def input_widths(card: Mapping[str, Any]) -> dict[str, int]:
    """Keys of ModelConfig that a dataset decides: how wide its sound is, and its text where it has any."""
    return {name: card[name] for name in ("audio_dim", "text_dim") if name in card}


def model_config(config: TrainConfig, card: Mapping[str, Any]) -> ModelConfig:
    """The config's model, its inputs and readouts as wide as the dataset's features."""
    return config.shape(**input_widths(card), flame_dim=len(measured_flame(card)))


@dataclass
class Prepared:
    """A batch on the device with its randomness; `counts`: of how many frames or slots each term is a mean."""

    batch: Batch
    drawn: Draw
    targets: Targets | None
    counts: Tensor  # in the order of TERMS


TERMS = ("video", "struct", "flame")


class Objective:
    """The loss of a batch of windows. `teacher`: of a few-step student, which learns where that one arrives."""

    def __init__(
        self, config: TrainConfig, card: Mapping[str, Any], device: torch.device, teacher: DualForce | None = None
    ):
        self.config, self.device, self.teacher = config, device, teacher
        self.flame = torch.from_numpy(measured_flame(card)).to(device)
        self.struct = config.shape().struct is not None

    def prepare(self, sample: Sample, generators: Sequence[torch.Generator]) -> Prepared:
        """The windows in `sample` with noise and dropout drawn, for each from its own generator."""
        on = {key: value.to(self.device, non_blocking=True) for key, value in sample.items() if torch.is_tensor(value)}
        config = self.config
        batch = Batch(
            video=on["video"],
            struct=on["struct"] if self.struct else None,
            conditions=Conditions(
                audio=on["audio"],
                audio_valid=on["audio_valid"],
                reference=on["reference"],
                text=on.get("text"),
                text_mask=on.get("text_mask"),
            ),
            start=on["start"],
            valid=on["frame_valid"],
            struct_valid=on["struct_valid"],
            flame=on["flame"][..., self.flame],
            flame_valid=on["flame_valid"][..., self.flame].all(-1),
        )
        drawn, targets = draw_each(batch, generators, config.levels, config.drops), None
        if self.teacher is not None:
            few = config.few_step
            drawn, targets = taught(self.teacher, batch, drawn, few.steps, few.teacher_steps, config.levels.sigma_s_max)
        sizes = {name: mask.sum() for name, mask in learned(batch, drawn).items()}
        none = torch.zeros((), device=self.device, dtype=torch.long)
        return Prepared(batch, drawn, targets, torch.stack([sizes.get(name, none) for name in TERMS]).float())

    def __call__(self, model: nn.Module, given: Prepared, counts: Tensor | None = None) -> Terms:
        """Loss terms of a prepared batch. With `counts`, its part in the mean over a larger batch (see `losses`)."""
        whole = None if counts is None else dict(zip(TERMS, counts, strict=True))
        return terms_of(model, given.batch, given.drawn, self.config.losses, counts=whole, targets=given.targets)
