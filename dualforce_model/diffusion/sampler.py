"""From noise to clean: the levels that a frame passes through, and the steps between them.

S steps, B batch, F latent frames. First order is Euler, second order Heun (Karras et al. 2022: two evaluations a step).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dualforce_model.config import ConfigError

# (video, struct, sigma_video, sigma_struct) -> velocities of video and struct
VelocityOf = Callable[[Tensor, "Tensor | None", Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]


@dataclass(frozen=True)
class ScheduleConfig:
    """How a frame goes from noise to clean.

    lead: how far the struct stream runs ahead ("structure first"), as a share of its own way: 0 both together, 1 the
    struct is clean before the video begins. shift > 1 spends more steps at high noise (Esser et al. 2024).
    stagger: of frames that are denoised together, how far each stays behind the one before it, as a share of its way.
    """

    steps: int = 10
    lead: float = 0.5
    shift: float = 1.0
    order: Literal[1, 2] = 1
    sigma_s_max: float = 1.0  # where the struct stream begins: as trained
    stagger: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.shift <= 0 or not 0 < self.sigma_s_max <= 1:
            raise ConfigError(f"steps >= 1, shift > 0, sigma_s_max in (0, 1]; got {self}")
        if self.lead < 0 or self.stagger < 0:
            raise ConfigError(f"lead and stagger are >= 0, got {self.lead} and {self.stagger}")


def frame_schedule(config: ScheduleConfig) -> tuple[Tensor, Tensor]:
    """Levels [S+1] of video and struct, from full noise to 0; both never rise, and struct is never behind video."""
    video, struct = chunk_schedule(config, 1)
    return video[:, 0], struct[:, 0]


def chunk_schedule(config: ScheduleConfig, frames: int) -> tuple[Tensor, Tensor]:
    """The same for `frames` frames that are denoised together: [S+1,F]. Along time noise never falls."""
    behind = config.stagger * torch.arange(frames, dtype=torch.float64)
    end = 1 + config.lead + config.stagger * (frames - 1)
    passed = torch.linspace(0, end, config.steps + 1, dtype=torch.float64)[:, None] - behind

    def level(progress: Tensor) -> Tensor:
        sigma = 1 - progress.clamp(0, 1)
        return (config.shift * sigma / (1 + (config.shift - 1) * sigma)).float()

    return level(passed - config.lead), level(passed) * config.sigma_s_max


def advance(x: Tensor, velocity: Tensor, sigma: Tensor, to: Tensor, axis: int) -> Tensor:
    """Move x along its velocity from level sigma [B,F] to `to`; bit for bit itself where the level stays."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = sigma.shape
    step = (to - sigma).reshape(shape)
    return torch.where(step == 0, x, x + step * velocity)


def integrate(
    velocity_of: VelocityOf,
    video: Tensor,
    struct: Tensor | None,
    sigma_video: Tensor,
    sigma_struct: Tensor | None,
    order: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """Follow the velocity through levels sigma_video and sigma_struct [S+1,B,F].

    video [B,16,F,H,W], struct [B,F,4,72]. Frames whose level does not move are left untouched.
    """
    for i in range(len(sigma_video) - 1):
        here = sigma_video[i], None if sigma_struct is None else sigma_struct[i]
        there = sigma_video[i + 1], None if sigma_struct is None else sigma_struct[i + 1]
        v, s = velocity_of(video, struct, *here)
        new_video, new_struct = _moved(video, struct, v, s, here, there)
        if order == 2 and i + 2 < len(sigma_video):  # the last step stays first order: it ends where the model looks
            v2, s2 = velocity_of(new_video, new_struct, *there)
            mean_s = None if s is None or s2 is None else (s + s2) / 2
            new_video, new_struct = _moved(video, struct, (v + v2) / 2, mean_s, here, there)
        video, struct = new_video, new_struct
    return video, struct


def _moved(
    video: Tensor,
    struct: Tensor | None,
    v: Tensor,
    s: Tensor | None,
    here: tuple[Tensor, Tensor | None],
    there: tuple[Tensor, Tensor | None],
) -> tuple[Tensor, Tensor | None]:
    new_video = advance(video, v, here[0], there[0], 2)
    if struct is None or s is None or here[1] is None or there[1] is None:
        return new_video, struct
    return new_video, advance(struct, s, here[1], there[1], 1)
