"""One training step up to its loss: draw levels and noise, run the model, compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dualforce_model.diffusion.dropout import DropRates, drop_conditions
from dualforce_model.diffusion.lip import LipScorer
from dualforce_model.diffusion.losses import LossWeights, Terms, losses
from dualforce_model.diffusion.noise import (
    NoiseConfig,
    add_noise,
    clean_estimate,
    draw_levels,
    normal,
    velocity_target,
)
from dualforce_model.model.conditioning import Conditions
from dualforce_model.timeline import FRONT_FRAMES, STRIDE


@dataclass
class Batch:
    """Clean windows of B clips, F latents each (shorter clips padded at the end and marked in `valid`).

    video [B,16,F,H,W] normalised latents; struct [B,F,4,72] standardised, slot layout; start [B] latent offsets;
    valid [B,F]; struct_valid [B,F,4]; flame [B,F,4,P] standardised with flame_valid [B,F,4]; mouth [B,F,4] boxes as
    shares of the picture. What is None is not there.
    """

    video: Tensor
    struct: Tensor | None
    conditions: Conditions
    start: Tensor
    valid: Tensor
    struct_valid: Tensor | None = None
    flame: Tensor | None = None
    flame_valid: Tensor | None = None
    mouth: Tensor | None = None


def training_terms(
    model: nn.Module,
    batch: Batch,
    generator: torch.Generator,
    noise: NoiseConfig | None = None,
    drops: DropRates | None = None,
    weights: LossWeights | None = None,
    scorer: LipScorer | None = None,
) -> Terms:
    """The loss of one step. All randomness comes from `generator`, so it is a function of (weights, batch, generator).

    `model` is a DualForce or a wrapper around one (DistributedDataParallel, an accelerate model).
    """
    noise, drops, weights = noise or NoiseConfig(), drops or DropRates(), weights or LossWeights()
    B, _, F = batch.video.shape[:3]
    device = batch.video.device
    levels = draw_levels(B, F, noise, generator, device)
    given = drop_conditions(batch.conditions, B, drops, generator, device)
    video_noise = normal(batch.video.shape, generator, device)
    noisy_video = add_noise(batch.video, video_noise, levels.video, 2)
    learned = batch.valid & ~levels.given
    if batch.struct is None:
        out = model(noisy_video, None, levels.video, None, given, batch.start)
        target = velocity_target(batch.video, video_noise)
        return losses(
            weights=weights, video=out.video, video_target=target, video_mask=learned, sigma_video=levels.video
        )

    struct_noise = normal(batch.struct.shape, generator, device)
    noisy_struct = add_noise(batch.struct, struct_noise, levels.struct, 1)
    out = model(noisy_video, noisy_struct, levels.video, levels.struct, given, batch.start, batch.struct_valid)
    measured = learned[..., None] & slots_exist(batch.start, F)
    if batch.struct_valid is not None:
        measured = measured & batch.struct_valid
    lip = None
    if scorer is not None and weights.lip and batch.mouth is not None and batch.conditions.audio is not None:
        estimate = clean_estimate(noisy_video, out.video, levels.video, 2)
        span = batch.conditions.audio.shape[1] - 8 * (F - 1)
        sound = batch.conditions.audio.unfold(1, span, 8).transpose(2, 3)
        lip, _ = scorer.loss(estimate, batch.mouth, sound, learned & (levels.video < 0.5))
    return losses(
        weights=weights,
        video=out.video,
        video_target=velocity_target(batch.video, video_noise),
        video_mask=learned,
        sigma_video=levels.video,
        struct=out.struct,
        struct_target=velocity_target(batch.struct, struct_noise),
        struct_mask=measured,
        sigma_struct=levels.struct,
        flame=out.flame,
        flame_target=batch.flame,
        flame_mask=measured if batch.flame_valid is None else measured & batch.flame_valid,
        lip=lip,
    )


def slots_exist(start: Tensor, frames: int) -> Tensor:
    """Struct slots [B,F,4] that a raw frame of the clip fills: all but three of latent 0."""
    latent = start[:, None] + torch.arange(frames, device=start.device)
    slot = torch.arange(STRIDE, device=start.device)
    return STRIDE * latent[..., None] + slot >= FRONT_FRAMES
