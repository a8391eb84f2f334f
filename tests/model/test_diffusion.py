"""Noise levels, losses, schedules; acceptance 6: with an oracle velocity the sampler returns the clean sample."""

from __future__ import annotations

import math

import pytest
import torch

from dualforce_model.config import ConfigError
from dualforce_model.diffusion import (
    DropRates,
    Levels,
    LipConfig,
    LipScorer,
    LossWeights,
    NoiseConfig,
    ScheduleConfig,
    add_noise,
    by_decile,
    clean_estimate,
    decile_means,
    draw_levels,
    drop_conditions,
    frame_schedule,
    generator_for,
    gradient_norms,
    integrate,
    losses,
    normal,
    velocity_target,
)
from dualforce_model.diffusion.losses import masked_mean
from dualforce_model.diffusion.recorded import Recorded, mirrored, overwrite
from dualforce_model.model import Conditions


def test_randomness_is_a_function_of_seed_step_and_rank():
    assert torch.equal(normal((8,), generator_for(1, 2, 3), "cpu"), normal((8,), generator_for(1, 2, 3), "cpu"))
    for other in ((1, 2, 4), (1, 3, 3), (2, 2, 3), (12, 3), (1, 23)):
        assert not torch.equal(normal((8,), generator_for(1, 2, 3), "cpu"), normal((8,), generator_for(*other), "cpu"))


def drawn(**settings):
    return draw_levels(4000, 6, NoiseConfig(**settings), generator_for(0))


def test_independent_levels_cover_everything():
    levels = drawn(independent=1, prefix=0, rising=0)
    assert not levels.given.any()
    assert abs(levels.video.mean() - 0.5) < 0.01
    assert levels.video.min() < 0.001
    assert levels.video.max() > 0.999
    assert abs(torch.corrcoef(levels.video.T)[0, 1]) < 0.05
    assert abs(torch.corrcoef(torch.stack([levels.video[:, 0], levels.struct[:, 0]]))[0, 1]) < 0.05


def test_a_prefix_is_clean_and_the_rest_at_one_level():
    levels = drawn(independent=0, prefix=1, rising=0)
    for sigma in (levels.video, levels.struct):
        assert (sigma[levels.given] == 0).all()
        rest = sigma.masked_fill(levels.given, float("nan"))
        assert torch.allclose(rest.nanmean(1, keepdim=True).expand_as(rest)[~levels.given], rest[~levels.given])
    lengths = levels.given.sum(1)
    assert set(lengths.tolist()) == set(range(6))
    assert (levels.given[:, :-1] >= levels.given[:, 1:]).all()  # nothing given after something that is not


def test_rising_levels_never_fall():
    levels = drawn(independent=0, prefix=0, rising=1)
    assert (levels.video.diff(dim=1) >= 0).all()
    assert (levels.struct.diff(dim=1) >= 0).all()


def test_struct_levels_favour_low_noise_and_reach_their_bound():
    for bound in (0.5, 0.7, 1.0):
        struct = drawn(independent=1, prefix=0, rising=0, sigma_s_max=bound).struct
        assert struct.max() <= bound
        assert struct.max() > 0.99 * bound
        assert (struct < bound / 2).float().mean() > 0.6
    video = drawn(sigma_s_max=0.5).video
    assert video.max() > 0.99  # and only that


def test_logit_normal_levels():
    levels = drawn(independent=1, prefix=0, rising=0, distribution="logit_normal", logit_mean=0.5, logit_std=0.8)
    logits = torch.logit(levels.video)
    assert abs(logits.mean() - 0.5) < 0.03
    assert abs(logits.std() - 0.8) < 0.03


@pytest.mark.parametrize("wrong", [{"independent": 0.5}, {"sigma_s_max": 1.5}, {"sigma_s_max": 0.0}])
def test_wrong_noise_settings_are_errors(wrong):
    with pytest.raises(ConfigError):
        NoiseConfig(**wrong)


def test_noise_target_and_estimate_agree():
    clean, noise = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 3, 4, 4)
    sigma = torch.tensor([[0.0, 0.3, 1.0], [0.5, 0.9, 0.1]])
    noisy = add_noise(clean, noise, sigma, 2)
    assert torch.equal(noisy[0, :, 0], clean[0, :, 0])
    torch.testing.assert_close(noisy[0, :, 2], noise[0, :, 2])
    torch.testing.assert_close(clean_estimate(noisy, velocity_target(clean, noise), sigma, 2), clean)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_an_oracle_brings_every_frame_home(order, steps):
    generator = generator_for("oracle")
    clean = normal((2, 16, 3, 4, 4), generator, "cpu"), normal((2, 3, 4, 72), generator, "cpu")
    noise = normal((2, 16, 3, 4, 4), generator, "cpu"), normal((2, 3, 4, 72), generator, "cpu")
    begin = torch.tensor([[0.0, 0.4, 1.0], [0.7, 0.0, 0.2]]), torch.tensor([[0.0, 0.9, 1.0], [0.3, 0.0, 0.6]])
    video, struct = add_noise(clean[0], noise[0], begin[0], 2), add_noise(clean[1], noise[1], begin[1], 1)
    path_v, path_s = frame_schedule(ScheduleConfig(steps=steps, lead=0.5))

    def oracle(v, s, sigma_v, sigma_s):
        return velocity_target(clean[0], noise[0]), velocity_target(clean[1], noise[1])

    end_v, end_s = integrate(oracle, video, struct, path_v[:, None, None] * begin[0], path_s[:, None, None] * begin[1],
                             order)  # fmt: skip
    torch.testing.assert_close(end_v, clean[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(end_s, clean[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(end_v[0, :, 0], clean[0][0, :, 0])  # context is left untouched, to the bit
    assert torch.equal(end_s[1, 1], clean[1][1, 1])


def test_second_order_is_nearer_on_a_curved_path():
    def curved(v, s, sigma_v, sigma_s):
        return v * sigma_v[:, None, :, None, None], None

    start = torch.ones(1, 16, 1, 2, 2)
    path = torch.linspace(1, 0, 9)[:, None, None]
    exact = math.exp(-0.5)  # dv/ds = v s, from s = 1 to 0
    first, _ = integrate(curved, start, None, path, None, order=1)
    second, _ = integrate(curved, start, None, path, None, order=2)
    assert abs(second.mean() - exact) < 0.2 * abs(first.mean() - exact)


@pytest.mark.parametrize("lead", [0.0, 0.5, 1.0])
def test_struct_leads(lead):
    video, struct = frame_schedule(ScheduleConfig(steps=10, lead=lead, shift=3.0))
    assert video[0] == struct[0] == 1
    assert video[-1] == struct[-1] == 0
    assert (video.diff() <= 0).all()
    assert (struct.diff() <= 0).all()
    assert (struct <= video + 1e-6).all()
    if lead == 1.0:
        assert struct[video < 1].max() < 1e-6 + struct[5]
    assert frame_schedule(ScheduleConfig(sigma_s_max=0.7))[1][0] == pytest.approx(0.7)


def test_losses_see_only_what_is_real():
    B, F = 2, 3
    generator = generator_for("losses")
    target = normal((B, 16, F, 2, 2), generator, "cpu")
    video = target + 1.0
    mask = torch.tensor([[True, True, False], [False, True, True]])
    video[0, :, 2], video[1, :, 0] = float("nan"), 1e6
    s_target = normal((B, F, 4, 72), generator, "cpu")
    struct = s_target + 2.0
    s_mask = mask[..., None].expand(B, F, 4).clone()
    s_mask[0, 0, :3] = False
    struct[~s_mask] = float("nan")
    sigma = torch.full((B, F), 0.25)
    flame_target = torch.zeros(B, F, 4, 5)
    found = losses(
        weights=LossWeights(), video=video, video_target=target, video_mask=mask, sigma_video=sigma, struct=struct,
        struct_target=s_target, struct_mask=s_mask, sigma_struct=sigma, flame=flame_target + 1,
        flame_target=flame_target, flame_mask=s_mask,
    )  # fmt: skip
    assert found.terms["video"].item() == pytest.approx(1.0, rel=1e-5)
    assert found.terms["struct"].item() == pytest.approx(4.0, rel=1e-5)
    assert found.terms["flame"].item() == pytest.approx(0.75**2, rel=1e-5)  # weighed down with sigma
    assert found.total.item() == pytest.approx(1.0 + 0.5 * 4.0 + 0.1 * 0.75**2, rel=1e-5)
    means = decile_means(found.deciles["video"])
    assert means[2].item() == pytest.approx(1.0, rel=1e-5)
    assert means.isnan().sum() == 9
    assert masked_mean(torch.full((2,), float("nan")), torch.zeros(2, dtype=torch.bool)) == 0


def test_deciles():
    value, sigma = torch.tensor([[1.0, 3.0, 5.0, 9.0]]), torch.tensor([[0.05, 0.07, 1.0, 0.55]])
    means = decile_means(by_decile(value, sigma, torch.tensor([[True, True, True, False]])))
    assert means[0] == 2
    assert means[9] == 5
    assert means[5].isnan()


def test_conditions_are_dropped_at_their_own_rates():
    given = drop_conditions(Conditions(), 20_000, DropRates(audio=0.1, text=0.3, reference=0.0), generator_for(7))
    assert given.drop_audio.float().mean() == pytest.approx(0.1, abs=0.01)
    assert given.drop_text.float().mean() == pytest.approx(0.3, abs=0.01)
    assert not given.drop_reference.any()
    both = (given.drop_audio & given.drop_text).float().mean()
    assert both == pytest.approx(0.03, abs=0.01)  # independent
    with pytest.raises(ConfigError, match="text"):
        DropRates(text=1.2)


def test_gradient_norms_are_each_terms_own():
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    unused = torch.ones(2, requires_grad=True)
    norms = gradient_norms({"a": w.square().sum() / 2, "b": 2 * w[0]}, [w, unused])
    assert norms == {"a": pytest.approx(5.0), "b": pytest.approx(2.0)}
    assert w.grad is None


def test_a_recorded_step_fills_the_gradients_anew_for_every_shape():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)

    def run(given):
        loss = model(given["x"]).square().sum() * given["x"].shape[0]
        loss.backward()
        return (loss.detach(),)

    recorded = Recorded(model, run)
    results = {}
    for n, rows in enumerate((2, 5, 2)):
        x = torch.randn(rows, 3)
        (loss,) = results[n] = recorded({"x": x})
        filled = model.weight.grad.clone()
        expected = torch.autograd.grad(model(x).square().sum() * rows, model.weight)[0]
        assert torch.equal(filled, expected)
        assert loss == model(x).square().sum() * rows
    assert recorded.count == 2
    assert results[0][0] != results[2][0]  # results are copies


def test_a_recorded_batch_keeps_its_storage_and_refuses_another_shape():
    levels = Levels(torch.rand(2, 3), torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    kept = mirrored(levels)
    address = kept.video.data_ptr()
    other = Levels(torch.rand(2, 3), torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool))
    overwrite(kept, other)
    assert kept.video.data_ptr() == address != levels.video.data_ptr()
    assert torch.equal(kept.video, other.video)
    assert kept.given.all()
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(2, 4\)"):
        overwrite(kept, Levels(torch.rand(2, 4), torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool)))
    with pytest.raises(ValueError, match="recorded with"):
        overwrite(Conditions(), Conditions(text=torch.zeros(1)))


def test_the_lip_scorer_learns_and_judges():
    torch.manual_seed(0)
    B, F, E = 3, 6, 8
    scorer = LipScorer(LipConfig(audio_dim=E, audio_span=5, width=16, embedding=16))
    audio = torch.randn(B, F, 5, E)
    # mouths whose latent shows the sound
    latents = torch.randn(B, 16, F, 8, 8) * 0.1 + audio.mean(2).repeat(1, 1, 2).permute(0, 2, 1)[..., None, None]
    boxes = torch.tensor([0.25, 0.5, 0.75, 1.0]).expand(B, F, 4)
    mask = torch.ones(B, F, dtype=torch.bool)
    optimiser = torch.optim.Adam(scorer.parameters(), lr=3e-3)
    for _ in range(60):
        loss, accuracy = scorer.loss(latents, boxes, audio, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert accuracy > 0.9
    frozen = scorer.freeze()
    moved = latents.clone().requires_grad_()
    frozen.loss(moved, boxes, audio, mask)[0].backward()
    assert moved.grad.abs().sum() > 0
    assert all(p.grad is None or not p.requires_grad for p in frozen.parameters())
