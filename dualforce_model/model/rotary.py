"""Rotary positions in physical time (and space), shared by both towers, the bridge and the audio.

d head dim = t + h + w channels (128 = 44 + 42 + 42); pairs of neighbouring channels turn by position x base^(-2i/size).
The unit of time is one latent frame (160 ms): struct tokens stand at quarter steps, audio features at eighths.
Source: RoFormer (Su et al. 2021); the split and the pairing are Wan 2.1's, so its weights fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

Phase = tuple[Tensor, Tensor]  # cosine and sine, [..., d/2] or less: channels beyond them do not turn


def split(head_dim: int) -> tuple[int, int, int]:
    """Channels of one head that turn with time, height and width."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def angles(position: Tensor, size: int, base: float) -> Tensor:
    """Angles [..., size/2] of `position` [...]. In float64: at minute 10 positions near 4000 leave fp32 rough."""
    rate = base ** (-torch.arange(0, size, 2, dtype=torch.float64, device=position.device) / size)
    return position.double()[..., None] * rate


def time_phase(time: Tensor, head_dim: int, base: float) -> Phase:
    """Phase of the time channels only, [..., t/2] in fp32, for latent times [...]. Space channels stay as they are."""
    turn = angles(time, split(head_dim)[0], base)
    return turn.cos().float(), turn.sin().float()


def space_phase(height: int, width: int, head_dim: int, base: float, device: torch.device) -> Phase:
    """Phase of a whole head at time 0 on an h x w patch grid: [h*w, d/2], time channels at rest."""
    t, h, w = split(head_dim)
    rows = angles(torch.arange(height, device=device), h, base)[:, None].expand(height, width, h // 2)
    columns = angles(torch.arange(width, device=device), w, base)[None].expand(height, width, w // 2)
    turn = torch.cat([rows.new_zeros(height, width, t // 2), rows, columns], -1).flatten(0, 1)
    return turn.cos().float(), turn.sin().float()


def rotate(x: Tensor, phase: Phase) -> Tensor:
    """Turn the leading channels of x [..., H, d] by `phase` [..., c] (c <= d/2; without the head axis), in fp32."""
    cos, sin = (part.unsqueeze(-2) for part in phase)
    turning = 2 * cos.shape[-1]
    even, odd = x[..., :turning].float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)
    return turned if turning == x.shape[-1] else torch.cat([turned, x[..., turning:]], -1)
