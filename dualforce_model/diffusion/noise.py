"""Noise levels per latent frame and stream, and what follows from one: the noisy value, the target, the clean estimate.

Sources: diffusion forcing (Chen et al. 2024) for independent levels per frame; rectified flow (Liu et al. 2022).
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from dualforce_model.configs.forcing import NoiseConfig


class Levels(NamedTuple):
    """sigma_video and sigma_struct [B,F] fp32; given [B,F] True for frames of a clean prefix, which are not learned."""

    video: Tensor
    struct: Tensor
    given: Tensor


def generator_for(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a pure function of its keys, `generator_for(seed, step, window)` say.

    Keys go through sha256, so neighbouring keys give unrelated streams. On the CPU by default: the same numbers on
    every machine, whatever the accelerator.
    """
    digest = hashlib.sha256("/".join(map(str, keys)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Standard normal noise in fp32, drawn where the generator lives and moved to `device`."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def draw_levels(
    batch: int, frames: int, config: NoiseConfig, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Levels:
    """Noise levels of a training batch. Video and struct levels are independent; the prefix is common to both."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    kind = uniform(batch, 1)
    prefix = (kind >= config.independent) & (kind < config.independent + config.prefix)
    rising = kind >= config.independent + config.prefix
    length = (uniform(batch, 1) * frames).long()  # 0 .. frames-1 clean frames
    given = prefix & (torch.arange(frames, device=kind.device) < length)

    def stream(shape: tuple[int, int]) -> Tensor:
        u = uniform(*shape)
        u = torch.where(prefix, u[:, :1], u)
        if config.distribution == "uniform":
            return u
        standard = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        return torch.sigmoid(config.logit_mean + config.logit_std * standard)

    def shaped(sigma: Tensor) -> Tensor:
        return torch.where(rising, sigma.sort(dim=1).values, sigma).masked_fill(given, 0.0)

    video = shaped(stream((batch, frames)))
    struct = shaped(config.sigma_s_max * stream((batch, frames)) ** config.struct_power)
    return Levels(video.to(device), struct.to(device), given.to(device))


def _over(sigma: Tensor, x: Tensor, axis: int) -> Tensor:
    """Sigma [B,F] shaped to multiply x, whose frame axis is `axis`."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = sigma.shape
    return sigma.reshape(shape)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor, axis: int) -> Tensor:
    """(1 - sigma) clean + sigma noise; clean exactly where sigma is 0. `axis` is the frame axis (video 2, struct 1)."""
    s = _over(sigma, clean, axis)
    return torch.where(s == 0, clean, (1 - s) * clean + s * noise)


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """What d noisy / d sigma is: noise - clean."""
    return noise - clean


def clean_estimate(noisy: Tensor, velocity: Tensor, sigma: Tensor, axis: int) -> Tensor:
    """The clean value that a velocity points at: noisy - sigma velocity."""
    return noisy - _over(sigma, noisy, axis) * velocity
