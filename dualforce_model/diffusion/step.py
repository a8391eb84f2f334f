"""One training step up to its loss: draw levels and noise, run the model, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

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


def draw_each(
    batch: Batch,
    generators: Sequence[torch.Generator],
    noise: NoiseConfig | None = None,
    drops: DropRates | None = None,
) -> Draw:
    """The same with a generator for each of the B clips: what a clip meets does not depend on who shares its batch.

    So a global batch is the same on any number of processes and in any number of pieces.
    """
    if len(generators) != len(batch.video):
        raise ValueError(f"{len(batch.video)} clips need a generator each, got {len(generators)}")
    alone = Batch(batch.video[:1], None if batch.struct is None else batch.struct[:1], Conditions(), batch.start[:1],
                  batch.valid[:1])  # fmt: skip
    return joined([draw(alone, generator, noise, drops) for generator in generators])


def joined(draws: Sequence[Draw]) -> Draw:
    """Draws of several batches as that of one."""

    def together(*tensors: Tensor | None) -> Tensor | None:
        return None if tensors[0] is None else torch.cat(tensors)  # type: ignore[arg-type]

    levels = Levels(*(torch.cat(parts) for parts in zip(*(one.levels for one in draws), strict=True)))
    names = [field.name for field in fields(Draw) if field.name != "levels"]
    rest: dict[str, Any] = {name: together(*(getattr(one, name) for one in draws)) for name in names}
    return Draw(levels, **rest)


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


def learned(batch: Batch, drawn: Draw) -> dict[str, Tensor]:
    """Per term, what it is a mean over: video [B,F], struct and flame [B,F,4]; real frames that are not given."""
    video = batch.valid & ~drawn.levels.given
    masks = {"video": video}
    if batch.struct is not None:
        struct = video[..., None] & slots_exist(batch.start, video.shape[1])
        struct = struct if batch.struct_valid is None else struct & batch.struct_valid
        flame = struct if batch.flame_valid is None else struct & batch.flame_valid
        masks |= {"struct": struct, "flame": flame}
    return masks


class Targets(NamedTuple):
    """Velocities to learn: video [B,16,F,H,W], struct [B,F,4,72]."""

    video: Tensor
    struct: Tensor | None


def conditions_of(batch: Batch, drawn: Draw) -> Conditions:
    """The batch's conditions without those that were drawn to be missing."""
    return replace(
        batch.conditions,
        drop_audio=drawn.drop_audio,
        drop_text=drawn.drop_text,
        drop_reference=drawn.drop_reference,
    )


def terms_of(
    model: nn.Module,
    batch: Batch,
    drawn: Draw,
    weights: LossWeights | None = None,
    scorer: LipScorer | None = None,
    counts: Mapping[str, Tensor] | None = None,
    targets: Targets | None = None,
) -> Terms:
    """The loss of one step whose randomness is drawn already; waits for no device, so it can be captured.

    `counts`: what each term is divided by where the batch is a part of a larger one (see `losses`). `targets`:
    velocities to learn instead of those of the data (see `few_step`).
    """
    weights, levels, F = weights or LossWeights(), drawn.levels, batch.video.shape[2]
    given = conditions_of(batch, drawn)
    noisy_video = add_noise(batch.video, drawn.video_noise, levels.video, 2)
    masks = learned(batch, drawn)
    target = targets.video if targets else velocity_target(batch.video, drawn.video_noise)
    if batch.struct is None or drawn.struct_noise is None:
        out = model(noisy_video, None, levels.video, None, given, batch.start)
        return losses(
            weights=weights, video=out.video, video_target=target, video_mask=masks["video"],
            sigma_video=levels.video, counts=counts,
        )  # fmt: skip

    noisy_struct = add_noise(batch.struct, drawn.struct_noise, levels.struct, 1)
    out = model(noisy_video, noisy_struct, levels.video, levels.struct, given, batch.start, batch.struct_valid)
    lip = None
    if scorer is not None and weights.lip and batch.mouth is not None and batch.conditions.audio is not None:
        estimate = clean_estimate(noisy_video, out.video, levels.video, 2)
        span = batch.conditions.audio.shape[1] - AUDIO_PER_LATENT * (F - 1)
        sound = batch.conditions.audio.unfold(1, span, AUDIO_PER_LATENT).transpose(2, 3)
        lip, _ = scorer.loss(estimate, batch.mouth, sound, masks["video"] & (levels.video < 0.5))
    return losses(
        weights=weights,
        video=out.video,
        video_target=target,
        video_mask=masks["video"],
        sigma_video=levels.video,
        struct=out.struct,
        struct_target=targets.struct if targets else velocity_target(batch.struct, drawn.struct_noise),
        struct_mask=masks["struct"],
        sigma_struct=levels.struct,
        flame=out.flame,
        flame_target=batch.flame,
        flame_mask=masks["flame"],
        lip=lip,
        counts=counts,
    )


def slots_exist(start: Tensor, frames: int) -> Tensor:
    """Struct slots [B,F,4] that a raw frame of the clip fills: all but three of latent 0."""
    latent = start[:, None] + torch.arange(frames, device=start.device)
    slot = torch.arange(STRIDE, device=start.device)
    return STRIDE * latent[..., None] + slot >= FRONT_FRAMES
