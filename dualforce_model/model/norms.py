"""Normalisations that compute in fp32 and give back the dtype they were given, under autocast or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.model.heads import normed


class RMSNorm(nn.Module):
    """x / rms(x) x weight over the last axis [..., D]."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return normed(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std over the last axis [..., D], with a learned scale and shift."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.layer_norm(x.float(), x.shape[-1:], self.weight.float(), self.bias.float(), self.eps)
        return wide.to(x.dtype)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm of x [B,F,N,D] without weights, then x (1 + scale) + shift, both [B,F,1,D] in fp32.

    One row per frame, broadcast over its tokens: the modulation is never expanded to tokens in memory.
    """
    wide = functional.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (wide * (1 + scale) + shift).to(x.dtype)


def gated(x: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """Add gate x change to x, with the gate [B,F,1,D] in fp32 and the residual stream in its own dtype."""
    return (x.float() + gate * change.float()).to(x.dtype)
