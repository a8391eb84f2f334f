"""What the video head has to say: all of the velocity, or only what the reference picture does not tell already."""

from __future__ import annotations

import torch
from torch import Tensor


def around_reference(
    raw: Tensor, noisy: Tensor, sigma: Tensor, reference: Tensor | None, dropped: Tensor | None, spread: float
) -> Tensor:
    """Velocity [B,16,F,H,W] from the head's `raw` output, preconditioned around the reference (Karras et al. 2022).

    If clean = reference + d with d of standard deviation `spread`, the best linear guess of noise - clean from the
    noisy frames is known in closed form; the head adds the rest, scaled to unit variance. A network without training
    then gives back the reference, not noise, and a narrow one need not carry the noise through its layers.
    sigma [B,F]; reference [B,16,H,W], zero (and spread 1, as latents have) in the samples [B] where it is `dropped`.
    """
    s = sigma.float()[:, None, :, None, None]
    whole = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
    absent = whole if reference is None else ~whole if dropped is None else dropped
    variance = torch.where(absent, 1.0, spread**2)[:, None, None, None, None]
    centre = torch.zeros_like(raw[:, :, :1]) if reference is None else reference.float()[:, :, None]
    beside = noisy.float() - (1 - s) * centre
    total = (1 - s).square() * variance + s.square()
    return (s - (1 - s) * variance) / total * beside - centre + (variance / total).sqrt() * raw
