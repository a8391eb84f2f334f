"""One training step up to its loss: draw levels and noise, run the model, compare."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dualforce_model.configs.forcing import DropRates, LossWeights, NoiseConfig
from dualforce_model.diffusion.dropout import drop_conditions
from dualforce_model.diffusion.lip import LipScorer
from dualforce_model.diffusion.losses import Terms, losses
from dualforce_model.diffusion.noise import (
    Levels,
    add_noise,
    clean_estimate,
    draw_levels,
    normal,
    velocity_target,
)
from dualforce_model.model.conditioning import Conditions
from dualforce_model.timeline import AUDIO_PER_LATENT, FRONT_FRAMES, STRIDE


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


@dataclass
class Draw:
    """The randomness of one step: levels, noise of both streams, and which samples lose which condition."""

    levels: Levels
    video_noise: Tensor
    struct_noise: Tensor | None
    drop_audio: Tensor
    drop_text: Tensor
    drop_reference: Tensor


def draw(
    batch: Batch, generator: torch.Generator, noise: NoiseConfig | None = None, drops: DropRates | None = None
) -> Draw:
    """All randomness of one step, a function of the generator and the batch's shape alone."""
    B, _, F = batch.video.shape[:3]
    device = batch.video.device
    levels = draw_levels(B, F, noise or NoiseConfig(), generator, device)
    given = drop_conditions(batch.conditions, B, drops or DropRates(), generator, device)
    video_noise = normal(batch.video.shape, generator, device)
    struct_noise = None if batch.struct is None else normal(batch.struct.shape, generator, device)
    assert given.drop_audio is not None
    assert given.drop_text is not None
    assert given.drop_reference is not None
    return Draw(levels, video_noise, struct_noise, given.drop_audio, given.drop_text, given.drop_reference)


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
    return terms_of(model, batch, draw(batch, generator, noise, drops), weights, scorer)


def terms_of(
    model: nn.Module, batch: Batch, drawn: Draw, weights: LossWeights | None = None, scorer: LipScorer | None = None
) -> Terms:
    """The loss of one step whose randomness is drawn already; waits for no device, so it can be captured."""
    weights, levels, F = weights or LossWeights(), drawn.levels, batch.video.shape[2]
    given = replace(
        batch.conditions,
        drop_audio=drawn.drop_audio,
        drop_text=drawn.drop_text,
        drop_reference=drawn.drop_reference,
    )
    noisy_video = add_noise(batch.video, drawn.video_noise, levels.video, 2)
    learned = batch.valid & ~levels.given
    target = velocity_target(batch.video, drawn.video_noise)
    if batch.struct is None or drawn.struct_noise is None:
        out = model(noisy_video, None, levels.video, None, given, batch.start)
        return losses(
            weights=weights, video=out.video, video_target=target, video_mask=learned, sigma_video=levels.video
        )

    noisy_struct = add_noise(batch.struct, drawn.struct_noise, levels.struct, 1)
    out = model(noisy_video, noisy_struct, levels.video, levels.struct, given, batch.start, batch.struct_valid)
    measured = learned[..., None] & slots_exist(batch.start, F)
    if batch.struct_valid is not None:
        measured = measured & batch.struct_valid
    lip = None
    if scorer is not None and weights.lip and batch.mouth is not None and batch.conditions.audio is not None:
        estimate = clean_estimate(noisy_video, out.video, levels.video, 2)
        span = batch.conditions.audio.shape[1] - AUDIO_PER_LATENT * (F - 1)
        sound = batch.conditions.audio.unfold(1, span, AUDIO_PER_LATENT).transpose(2, 3)
        lip, _ = scorer.loss(estimate, batch.mouth, sound, learned & (levels.video < 0.5))
    return losses(
        weights=weights,
        video=out.video,
        video_target=target,
        video_mask=learned,
        sigma_video=levels.video,
        struct=out.struct,
        struct_target=velocity_target(batch.struct, drawn.struct_noise),
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
