"""The rollout: how many passes it takes, what it remembers, and that nothing but its own seed and conditions move it."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.diffusion import ScheduleConfig, chunk_schedule, integrate
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.rollout import Given, Rollout
from tests.model.support import nudged, tiny

SIDE = 6


@pytest.fixture(scope="module")
def model():
    return nudged(tiny(), 0.05)


def picture(seed: int) -> torch.Tensor:
    return torch.randn(1, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def begun(model, config, speakers=(0,), seeds=None, window=3, text=None) -> Rollout:
    references = torch.cat([picture(seed) for seed in speakers])
    return Rollout(model, config, window, 1.0, references, seeds or [config.seed] * len(speakers), text)


def sound(model, first: int, chunk: int, speakers=(0,)) -> tuple[torch.Tensor, torch.Tensor]:
    """What latents from `first` hear of each speaker's endless sound."""
    span = model.config.audio_span + 8 * (chunk - 1)
    rows = []
    for seed in speakers:
        whole = torch.randn(200, model.config.audio_dim, generator=torch.Generator().manual_seed(90 + seed))
        rows.append(whole[8 * first : 8 * first + span])
    return torch.stack(rows), torch.ones(len(rows), span, dtype=torch.bool)


def drawn(rollout: Rollout, latents: int, speakers=(0,), given=None) -> tuple[torch.Tensor, torch.Tensor]:
    """`latents` latents [S,16,F,h,w] and their struct [S,F,4,72]."""
    chunk = rollout.config.chunk
    heard = (sound(rollout.model, first, chunk, speakers) for first in range(0, latents, chunk))
    outs = [rollout.draw(*each, given=given) for each in heard]
    return torch.cat([v for v, _ in outs], 2), torch.cat([s for _, s in outs], 1)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, 1),
        ({"guidance_audio": 3.0}, 2),
        ({"guidance_audio": 3.0, "guidance_reference": 2.0}, 3),
        ({"guidance_audio": 0.0, "guidance_reference": 2.0, "guidance_text": 5.0}, 4),
    ],
)
@pytest.mark.parametrize(("order", "per_latent"), [(1, 4 + 1), (2, 2 * 4 - 1 + 1)])
def test_what_is_off_costs_nothing(model, settings, rows, order, per_latent):
    """Passes per latent: the solver's and one to remember it; rows per pass: one and those that are guided by."""
    seen = []
    counted = model.video.embed.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[0]))
    text = torch.randn(3, model.config.text_dim) if "guidance_text" in settings else None
    rollout = begun(model, GenerateConfig(steps=4, order=order, **settings), text=text)
    seen.clear()  # the reference was looked at once
    drawn(rollout, 2)
    counted.remove()
    assert seen == [rows] * 2 * per_latent
    assert rollout.passes.passes == 2 * per_latent


@pytest.mark.parametrize("name", ["audio", "reference", "text"])
def test_each_scale_moves_along_its_own_difference(model, name):
    """Guided velocity = v + (scale - 1)(v - v without the condition), whatever else is there."""
    text = torch.randn(3, model.config.text_dim)
    scales = (1.0, 2.0, 4.0)
    found = []
    for scale in scales:
        rollout = begun(model, GenerateConfig(**{f"guidance_{name}": scale}), text=text)
        rollout.begin(*sound(model, 0, 1))
        levels = torch.full((1, 1), 0.7)
        with torch.inference_mode():
            found.append(rollout.passes.velocity(picture(8)[:, :, None], torch.ones(1, 1, 4, 72), levels, levels)[0])
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2] - found[0], 3 * (found[1] - found[0]), atol=1e-4, rtol=1e-3)


def test_the_second_solver_is_of_second_order():
    """Halving the step quarters the error of Heun and halves that of Euler; struct leads, and its path ends early."""

    def curved(video, struct, sigma_video, sigma_struct):
        s, t = sigma_video[:, None, :, None, None], sigma_struct[..., None, None]
        return video * torch.cos(2 * s) + struct.mean() * s, struct * torch.sin(1 + t) + video.mean() * t

    def end(steps, order):
        levels = chunk_schedule(ScheduleConfig(steps=steps, lead=0.5), 2)
        video, struct = integrate(
            curved,
            torch.full((1, 16, 2, 2, 2), 1.0, dtype=torch.float64),
            torch.full((1, 2, 4, 72), 0.5, dtype=torch.float64),
            *(level[:, None].double() for level in levels),
            order=order,
        )
        return torch.stack([video.mean(), struct.mean()])

    exact = end(3072, 2)
    for order in (1, 2):
        errors = [(end(steps, order) - exact).abs() for steps in (12, 24, 48, 96)]
        orders = [torch.log2(a / b) for a, b in itertools.pairwise(errors)]
        assert torch.stack(orders).mean(0) == pytest.approx(order, abs=0.15)


def test_levels_of_a_chunk_never_fall_along_time():
    video, struct = chunk_schedule(ScheduleConfig(steps=12, lead=0.5, stagger=0.25, shift=2.0), 3)
    for levels in (video, struct):
        assert (levels[0] == 1).all()
        assert (levels[-1] == 0).all()
        assert (levels.diff(dim=0) <= 0).all()
        assert (levels.diff(dim=1) >= 0).all()
        assert (levels.diff(dim=1) > 0).any()
    assert (struct <= video + 1e-6).all()
    together, _ = chunk_schedule(ScheduleConfig(steps=12), 3)
    assert torch.equal(together[:, 0], together[:, 2])


def test_the_past_is_clean_and_stays_untouched(model):
    """What was drawn is what is remembered, at level 0, and no bit of it moves until it leaves the window."""
    rollout = begun(model, GenerateConfig(steps=3), window=3)
    told = []
    pass_frame = rollout.passes.velocity

    def listening(video, struct, sigma_video, sigma_struct):
        told.append((video.clone(), sigma_video.clone(), sigma_struct.clone()))
        return pass_frame(video, struct, sigma_video, sigma_struct)

    rollout.passes.velocity = listening
    kept: dict[int, torch.Tensor] = {}
    for latent in range(6):
        video, _ = rollout.draw(*sound(model, latent, 1))
        assert torch.equal(told[-1][0], video)
        assert told[-1][1].item() == told[-1][2].item() == 0
        rings = [*rollout.cache.video, *rollout.cache.struct, *rollout.cache.bridge_video]
        for past, remembered in kept.items():
            if past > latent - 3:  # not evicted yet
                now = [ring.k[:, ring.front + past % 3] for ring in rings]
                assert all(map(torch.equal, now, remembered))
        kept[latent] = [ring.k[:, ring.front + latent % 3].clone() for ring in rings]


def test_a_noisy_context_is_noise_of_the_declared_level_and_leaves_the_output_alone(model):
    clean, noisy = (begun(model, GenerateConfig(steps=2, context_sigma=s)) for s in (0.0, 0.1))
    first = [drawn(rollout, 1)[0] for rollout in (clean, noisy)]
    assert torch.equal(*first)  # the first latent has no past
    second = [rollout.draw(*sound(model, 1, 1))[0] for rollout in (clean, noisy)]
    assert not torch.equal(*second)
    assert (second[0] - second[1]).abs().max() < 1


def test_given_struct_drives_and_is_never_touched(model):
    rollout, free = begun(model, GenerateConfig(steps=3)), begun(model, GenerateConfig(steps=3))
    struct = torch.randn(1, 1, 4, 72)
    given = Given(struct, torch.ones(1, 1, dtype=torch.bool))
    video, driven = drawn(rollout, 2, given=given)
    assert torch.equal(driven, struct.expand(1, 2, 4, 72))
    other, own = drawn(free, 2)
    assert not torch.equal(own, driven)
    assert not torch.equal(video, other)
    nothing = Given(struct, torch.zeros(1, 1, dtype=torch.bool))
    again, _ = drawn(begun(model, GenerateConfig(steps=3)), 2, given=nothing)
    assert torch.equal(again, other)


def test_speakers_together_are_each_alone(model):
    """Tolerance: a batch of another size rounds otherwise (fp32)."""
    config, people = GenerateConfig(steps=3, guidance_audio=2.0), (4, 5, 6)
    together = drawn(begun(model, config, people, seeds=people), 4, people)
    for at, seed in enumerate(people):
        alone = drawn(begun(model, config, (seed,), seeds=[seed]), 4, (seed,))
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[at], theirs[0], atol=2e-5, rtol=1e-4)
    assert not torch.allclose(together[0][0], together[0][1], atol=0.1)


def test_noise_belongs_to_the_latent_not_to_the_chunk(model):
    """With a velocity that looks at nothing, chunks of any size draw the same."""
    outs = []
    for chunk in (1, 2, 3):
        rollout = begun(model, GenerateConfig(steps=2, chunk=chunk, struct_lead=0.0))
        rollout.passes.velocity = lambda video, struct, *_: (video * 0.5, struct * 0.5)
        outs.append(drawn(rollout, 6))
    for video, struct in outs[1:]:
        torch.testing.assert_close(video, outs[0][0])
        torch.testing.assert_close(struct, outs[0][1])


@pytest.mark.parametrize("chunk", [1, 2])
def test_cost_per_latent_does_not_grow(model, chunk):
    """Counted, not timed: arithmetic per chunk and everything that is kept, from the moment the window is full."""
    from torch.utils.flop_counter import FlopCounterMode

    rollout = begun(model, GenerateConfig(steps=2, chunk=chunk, guidance_audio=2.0), window=3)
    spent, kept = [], []
    for first in range(0, 12, chunk):
        with FlopCounterMode(display=False) as counter:
            rollout.draw(*sound(model, first, chunk))
        spent.append(counter.get_total_flops())
        rings = [*rollout.cache.video, *rollout.cache.struct]
        kept.append(sum(x.numel() for ring in rings for x in (ring.k, ring.v)))
    full = math.ceil(3 / chunk)
    assert len(set(spent[full:])) == 1 < len(set(spent[: full + 1]))
    assert len(set(kept)) == 1
    assert rollout.cache.filled == rollout.cache.slots == 3 + chunk - 1
    assert rollout.passes.recorded <= 1 + 3  # one function to prepare, one per number of frames that are seen


def test_a_rollout_begun_again_draws_as_a_new_one(model):
    config = GenerateConfig(steps=2, guidance_reference=2.0)
    rollout = begun(model, replace(config, steps=3, order=2, context_sigma=0.1), (1,))
    drawn(rollout, 5, (1,))
    rollout.restart(config, picture(2), [7])
    again = drawn(rollout, 4, (2,))
    fresh = drawn(begun(model, config, (2,), seeds=[7]), 4, (2,))
    assert torch.equal(again[0], fresh[0])
    assert torch.equal(again[1], fresh[1])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend):
    """All parts through the seams that a GPU uses; and inductor's own kernels, for one block, since they take longer."""
    from torch._dynamo.utils import counters

    shape = tiny()
    if backend == "inductor":
        shape = tiny("video.layers=1", struct=None, bridge={"strategy": "none"})
    config, eager, compiled = GenerateConfig(steps=1), nudged(shape, 0.05), nudged(shape, 0.05)
    torch._dynamo.reset()
    compiled.compile_steps(backend)
    one, other = begun(compiled, config), begun(eager, config)
    graphs = []
    for first in range(5):
        ours, theirs = (rollout.draw(*sound(eager, first, 1)) for rollout in (one, other))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1  # nothing is compiled again as the cache fills and evicts
    assert graphs[0] > 0


def test_half_precision_is_near(model):
    from dualforce_model.generate.talker import ready

    config = GenerateConfig(steps=2)
    half = nudged(tiny(), 0.05)
    ready(half, "bfloat16", compiled=False)
    assert half.video.blocks[0].ffn_in.weight.dtype == torch.bfloat16
    assert half.video.noise.out.weight.dtype == torch.float32
    assert torch.equal(half.video.noise.out.weight, model.video.noise.out.weight)
    ours, theirs = drawn(begun(half, config), 3)[0], drawn(begun(model, config), 3)[0]
    assert (ours - theirs).norm() / theirs.norm() < 0.05
    assert not torch.equal(ours, theirs)


def test_wrong_settings_are_said():
    wrong: list[dict[str, object]] = [{"chunk": 0}, {"steps": 0}, {"window": 0}, {"order": 3}]
    floats = [
        field.name for field in fields(GenerateConfig) if "float" in str(field.type) and field.name != "precision"
    ]
    assert len(floats) == 9
    for name in floats:  # each finite and never below zero
        wrong += [{name: value} for value in (np.nan, np.inf, -np.inf, -0.1)]
    scales = [name for name in floats if name.startswith("guidance")]
    wrong += [{name: 20.5} for name in scales] + [{scales[0]: 1e30}, {"context_sigma": 1.0}, {"shift": 0.0}]
    wrong += [{"shift": 1e4}, {"struct_lead": 3.0}, {"stagger": 3.0}, {"max_seconds": 0.0}, {"seconds": 0.0}]
    for values in wrong:
        (name,) = values
        with pytest.raises(ConfigError, match=name):
            strict.build(GenerateConfig, values)
    largest = {"guidance_audio": 20.0, "shift": 100.0, "struct_lead": 2.0, "stagger": 2.0, "max_seconds": 1e9}
    assert strict.build(GenerateConfig, {**largest, "guidance_text": 0.0, "shift": 12.0}).shift == 12.0
    assert replace(GenerateConfig(), chunk=3).chunk == 3
    assert np.isfinite(GenerateConfig().max_seconds)
