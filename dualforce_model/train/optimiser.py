"""AdamW groups, the learning rate in closed form, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dualforce_model.train.config import OptimiserConfig


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Rate of optimiser step `step` (from 0) of `steps`: linear warm-up, then half a cosine down to `final_lr`.

    A function of the optimiser step alone: neither the number of processes nor of accumulated batches enters.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - 1 - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices of linear layers, not to norms, biases, tables and null tokens."""
    return parameter.ndim >= 2 and name.endswith(".weight")


def adamw(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW with a group that decays and one that does not, parameters in the model's own order."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


class Ema:
    """Moving average of the parameters, in fp32; its decay grows from 0.1 so that the first steps are forgotten."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter.detach().float(), 1 - keep)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model computes with (and saves) the averaged weights."""
        named = list(model.named_parameters())
        own = [parameter.data for _, parameter in named]
        try:
            for name, parameter in named:
                parameter.data = self.weights[name].to(parameter.dtype)
            yield
        finally:
            for (_, parameter), data in zip(named, own, strict=True):
                parameter.data = data
