"""Acceptance 8: one short clip is learned by heart, and comes back from noise, given its picture and its sound."""

from __future__ import annotations

import math

import torch

from dualforce_model.diffusion import (
    Batch,
    DropRates,
    NoiseConfig,
    ScheduleConfig,
    frame_schedule,
    generator_for,
    integrate,
    normal,
    training_terms,
)
from dualforce_model.model import Conditions, DualForce
from tests.model.support import tiny

F, H, W, STEPS = 3, 4, 4, 1000


def clip(config):
    """A smooth clip with unit spread, whose frames differ and follow the sound."""
    generator = generator_for("clip")
    heard = 8 * (F - 1) + config.audio_span
    conditions = Conditions(
        audio=normal((1, heard, config.audio_dim), generator, "cpu"),
        reference=normal((1, 16, H, W), generator, "cpu"),
    )
    turn = torch.linspace(0, 1.5, F)[None, None, :, None, None]
    other = normal((1, 16, 1, H, W), generator, "cpu")
    return Batch(
        video=turn.cos() * conditions.reference[:, :, None] + turn.sin() * other,
        struct=normal((1, F, 4, 72), generator, "cpu"),
        conditions=conditions,
        start=torch.zeros(1, dtype=torch.long),
        valid=torch.ones(1, F, dtype=torch.bool),
    )


def generate(model, batch):
    """Frame by frame from noise, with the cache."""
    config = model.config
    cache = model.new_cache(batch.conditions, (H, W), 1, window=F)
    path_v, path_s = frame_schedule(ScheduleConfig(steps=8, lead=0.5))
    path = path_v[:, None, None], path_s[:, None, None]
    videos, structs = [], []
    for f in range(F):
        model.begin_frame(cache, batch.conditions.audio[:, 8 * f : 8 * f + config.audio_span])
        noise = generator_for("generate", f)
        start = normal((1, 16, 1, H, W), noise, "cpu"), normal((1, 1, 4, 72), noise, "cpu")
        video, struct = integrate(lambda *given: model.denoise_frame(cache, *given)[:2], *start, *path, order=2)
        model.commit_frame(cache, video, struct)
        videos.append(video)
        structs.append(struct)
    return torch.cat(videos, 2), torch.cat(structs, 1)


def psnr(found, wanted):
    """In dB, against the range of the wanted values."""
    return 20 * math.log10((wanted.max() - wanted.min()) / (found - wanted).square().mean().sqrt())


def test_a_clip_is_learned_by_heart():
    config = tiny("flame_dim=0")
    torch.manual_seed(0)
    model, batch = DualForce(config).train(), clip(config)
    many = batch_of_copies(batch, 4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS)
    noise = NoiseConfig(independent=0.3, prefix=0.6, rising=0.1)
    history = []
    for step in range(STEPS):
        terms = training_terms(model, many, generator_for(0, step, 0), noise, DropRates(0.0, 0.0, 0.0))
        optimiser.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        history.append(terms.total.item())
    first, last = sum(history[:10]) / 10, sum(history[-20:]) / 20
    assert last < first / 10, f"loss {first:.3f} to {last:.3f}"
    with torch.no_grad():
        video, struct = generate(model.eval(), batch)
    assert psnr(video, batch.video) > 25, psnr(video, batch.video)
    assert psnr(struct.flatten(1, 2)[:, 3:], batch.struct.flatten(1, 2)[:, 3:]) > 20


def batch_of_copies(batch, n):
    given = Conditions(
        audio=batch.conditions.audio.expand(n, -1, -1), reference=batch.conditions.reference.expand(n, -1, -1, -1)
    )
    return Batch(
        video=batch.video.expand(n, -1, -1, -1, -1),
        struct=batch.struct.expand(n, -1, -1, -1),
        conditions=given,
        start=batch.start.expand(n),
        valid=batch.valid.expand(n, -1),
    )
