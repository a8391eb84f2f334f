"""Few-step tuning: one step of the student is taught to go as far as several steps of a frozen teacher.

Progressive distillation (Salimans & Ho 2022) for velocities and for a level per frame: noisy frames stand on a grid of
N levels; the teacher walks from each frame's level to the next lower one in K Euler steps, and the straight line to where
it arrives is the velocity that the student learns. So N Euler steps of the student do what N·K of the teacher did, under
the same conditions. Tuning again from the result halves the steps once more.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dualforce_model.diffusion.noise import Levels, add_noise
from dualforce_model.diffusion.sampler import advance
from dualforce_model.diffusion.step import Batch, Draw, Targets, conditions_of


def on_grid(levels: Levels, steps: int, sigma_s_max: float) -> Levels:
    """Every level raised to the next of the `steps` that a student starts a step from; given frames stay at 0."""

    def raised(sigma: Tensor, highest: float) -> Tensor:
        up = (sigma / highest * steps).ceil().clamp(1, steps) / steps * highest
        return up.masked_fill(levels.given, 0.0)

    return Levels(raised(levels.video, 1.0), raised(levels.struct, sigma_s_max), levels.given)


@torch.no_grad()
def taught(
    teacher: nn.Module, batch: Batch, drawn: Draw, steps: int, teacher_steps: int, sigma_s_max: float = 1.0
) -> tuple[Draw, Targets]:
    """`drawn` with its levels on the student's grid, and the velocities that the teacher's walk amounts to.

    Video [B,16,F,H,W], struct [B,F,4,72] (None without a struct stream). Frames that are given get no target of use.
    """
    levels = on_grid(drawn.levels, steps, sigma_s_max)
    drawn = replace(drawn, levels=levels)
    given = conditions_of(batch, drawn)
    video = start_video = add_noise(batch.video, drawn.video_noise, levels.video, 2)
    struct = start_struct = None
    if batch.struct is not None and drawn.struct_noise is not None:
        struct = start_struct = add_noise(batch.struct, drawn.struct_noise, levels.struct, 1)

    def level(k: int) -> tuple[Tensor, Tensor]:
        """Levels of video and struct after `k` of the teacher's steps."""
        share = k / (teacher_steps * steps)
        return (levels.video - share).clamp(min=0.0), (levels.struct - share * sigma_s_max).clamp(min=0.0)

    for k in range(teacher_steps):
        (here, here_s), (there, there_s) = level(k), level(k + 1)
        found = teacher(video, struct, here, None if struct is None else here_s, given, batch.start, batch.struct_valid)
        video = advance(video, found.video, here, there, 2)
        if struct is not None:
            struct = advance(struct, found.struct, here_s, there_s, 1)

    # every level that moves goes down by one step of the grid
    video_target = (start_video - video) * steps
    if struct is None or start_struct is None:
        return drawn, Targets(video_target, None)
    return drawn, Targets(video_target, (start_struct - struct) * steps / sigma_s_max)
