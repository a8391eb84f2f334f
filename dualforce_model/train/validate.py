"""Loss on people whom training never sees: the same windows, the same noise every time, so that numbers compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dualforce_model.configs.shape import ModelConfig
from dualforce_model.data import Clip, Sample, collate
from dualforce_model.diffusion import generator_for
from dualforce_model.train.batches import windows
from dualforce_model.train.config import TrainConfig

SEED = 0  # of windows and noise; not the training's, so that trainings compare too


def validation_terms(
    clips: Sequence[Clip],
    card: Any,
    config: TrainConfig,
    shape: ModelConfig,
    terms_of: Callable[[Sample, torch.Generator], dict[str, Tensor]],
    rank: int = 0,
    world: int = 1,
) -> dict[str, Tensor]:
    """Mean of each term over `validate_windows` windows of length `frames`, this process's share of them.

    `terms_of(batch, generator)` computes the loss. Each window has a generator of its own, so neither the batch size
    nor the number of processes changes what a window meets. Every process makes the same number of passes.
    """
    held_out = windows(clips, card, config, shape, SEED, buckets=((config.frames, 1),))
    mine = range(rank, max(world, config.validate_windows // world * world), world)
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for n in mine:
            (place,) = held_out.order.batch(n)
            found = terms_of(collate([held_out[place]]), generator_for("validation", SEED, n))
            sums = {name: sums.get(name, 0) + value / len(mine) for name, value in found.items()}
    return sums
