"""Putting parts of an attention together that were computed apart: by their log-sum-exp forward, by a sum backward.

B batch, F frames, N tokens, H heads, d head dim. A part covers some frames: [B·groups, frames·N, H, d], see `Spot`.
On a GPU one kernel reads each part once and writes the result once, with fp32 in registers; the loops below it say the
same in plain tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Spot(NamedTuple):
    """Where a part belongs: in each of `groups` runs, `stride` frames apart, `frames` frames from frame `first` on."""

    first: int
    frames: int
    groups: int
    stride: int


def frames_of(x: Tensor, spot: Spot) -> Tensor:
    """The frames of x [B,F,...] that a spot covers: [B,groups,count,...], a view."""
    if spot.groups == 1:
        return x[:, None, spot.first : spot.first + spot.frames]
    runs = x[:, : spot.groups * spot.stride].unfold(1, spot.stride, spot.stride).movedim(-1, 2)
    return runs[:, :, spot.first : spot.first + spot.frames]


def merged(
    outs: Sequence[Tensor], stats: Sequence[Tensor], spots: Sequence[Spot], shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """Attention over the union of the parts' keys: output of `shape` [B,F,N,H,d], log-sum-exp [B,F,N,H] fp32.

    outs [B·groups,frames·N,H,d] and their log-sum-exps [B·groups,frames·N,H]. Every frame is covered at least once.
    """
    if outs[0].is_cuda:
        from dualforce_model.model import merge_kernel

        return merge_kernel.merged(outs, stats, spots, shape)
    out = torch.zeros(shape, dtype=torch.float32)
    total = torch.full(shape[:4], float("-inf"))
    for part, lse, spot in zip(outs, stats, spots, strict=True):
        here, sofar = frames_of(out, spot), frames_of(total, spot)
        lse, part = lse.reshape(sofar.shape), part.reshape(here.shape).float()
        new = torch.logaddexp(sofar, lse)
        here.copy_(here * (sofar - new).exp()[..., None] + part * (lse - new).exp()[..., None])
        sofar.copy_(new)
    return out.to(outs[0].dtype), total


def summed(parts: Sequence[Tensor], spots: Sequence[Spot], shape: torch.Size) -> Tensor:
    """The sum of parts [B·groups,frames·N,H,d] where their frames are: [B,F,N,H,d], in the parts' dtype."""
    if parts[0].is_cuda:
        from dualforce_model.model import merge_kernel

        return merge_kernel.summed(parts, spots, shape)
    out = torch.zeros(shape, dtype=torch.float32)
    for part, spot in zip(parts, spots, strict=True):
        here = frames_of(out, spot)
        here.add_(part.reshape(here.shape))
    return out.to(parts[0].dtype)
