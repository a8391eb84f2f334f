"""AdamW groups, the learning rate in closed form, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dualforce_model.train.config import OptimiserConfig
from dualforce_model.train.parallel import local


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
    fused = next(model.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


class Ema:
    """Moving average of the parameters, in fp32; its decay grows from 0.1 so that the first steps are forgotten.

    Of parameters that are spread over processes, each averages what it holds.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 0)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        named = dict(model.named_parameters())
        averages = [local(self.weights[name]) for name in named]
        torch._foreach_lerp_(averages, [local(p.detach()).float() for p in named.values()], 1 - keep)
