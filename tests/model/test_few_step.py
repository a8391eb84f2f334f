"""Few-step tuning: the student's step is where the teacher's walk arrives; tuning brings the student there."""

from __future__ import annotations

import copy

import pytest
import torch

from dualforce_model.configs.forcing import DropRates, NoiseConfig
from dualforce_model.diffusion import (
    Batch,
    Levels,
    ScheduleConfig,
    draw,
    frame_schedule,
    generator_for,
    integrate,
    taught,
    terms_of,
)
from dualforce_model.diffusion.few_step import on_grid
from dualforce_model.diffusion.noise import add_noise
from dualforce_model.diffusion.step import conditions_of
from tests.model.support import inputs, nudged, tiny

STEPS, TEACHER_STEPS = 2, 3
B, F = 3, 3


@pytest.fixture(scope="module")
def teacher():
    return nudged(tiny(), 0.06).requires_grad_(False)


@pytest.fixture(scope="module")
def batch() -> Batch:
    given = inputs(tiny(), B, F, 4, 4)
    return Batch(given.video, given.struct, given.conditions, given.start, torch.ones(B, F, dtype=torch.bool))


def test_levels_stand_on_the_grid_at_or_above_what_was_drawn():
    sigma = torch.tensor([[0.01, 0.25, 0.2501, 1.0, 0.0]])
    given = torch.tensor([[False, False, False, False, True]])
    levels = on_grid(Levels(sigma, 0.5 * sigma, given), 4, 0.5)
    assert levels.video.tolist() == [[0.25, 0.25, 0.5, 1.0, 0.0]]
    assert levels.struct.tolist() == [[0.125, 0.125, 0.25, 0.5, 0.0]]


def test_one_step_along_the_target_is_the_teachers_walk(teacher, batch):
    """Against a walk that the sampler takes by itself."""
    noise = NoiseConfig(sigma_s_max=0.8)
    drawn, targets = taught(
        teacher, batch, draw(batch, generator_for("few", 0), noise), STEPS, TEACHER_STEPS, noise.sigma_s_max
    )
    levels, conditions = drawn.levels, conditions_of(batch, drawn)
    video, struct = add_noise(batch.video, drawn.video_noise, levels.video, 2), add_noise(
        batch.struct, drawn.struct_noise, levels.struct, 1
    )  # fmt: skip

    def velocity(video, struct, sigma_video, sigma_struct):
        found = teacher(video, struct, sigma_video, sigma_struct, conditions, batch.start)
        return found.video, found.struct

    down = torch.linspace(0, 1, TEACHER_STEPS + 1)[:, None, None] / STEPS
    sigma_video = (levels.video - down).clamp(min=0)
    sigma_struct = (levels.struct - down * noise.sigma_s_max).clamp(min=0)
    walked, walked_struct = integrate(velocity, video, struct, sigma_video, sigma_struct)
    moved = ~levels.given
    step = moved[:, None, :, None, None] / STEPS
    torch.testing.assert_close(video - step * targets.video, walked)
    step = moved[..., None, None] * noise.sigma_s_max / STEPS
    torch.testing.assert_close(struct - step * targets.struct, walked_struct)


def test_a_teacher_with_straight_paths_teaches_its_own_velocity(batch):
    class Straight(torch.nn.Module):
        def forward(self, video, struct, *_):
            return type("Velocity", (), {"video": torch.full_like(video, 2.0), "struct": torch.full_like(struct, -3.0)})

    drawn, targets = taught(Straight(), batch, draw(batch, generator_for("few", 1)), 4, 5)
    moved = ~drawn.levels.given
    torch.testing.assert_close(targets.video, moved[:, None, :, None, None].expand_as(targets.video) * 2.0)
    torch.testing.assert_close(targets.struct, moved[..., None, None].expand_as(targets.struct) * -3.0)


def rollout(model, batch: Batch, steps: int) -> torch.Tensor:
    """All frames together from one noise to clean, under all conditions."""
    sigma_video, sigma_struct = (
        level[:, None, None].expand(-1, B, F) for level in frame_schedule(ScheduleConfig(steps=steps, lead=0.0))
    )
    noise = generator_for("rollout", 0)
    video, struct = (torch.randn(x.shape, generator=noise) for x in (batch.video, batch.struct))

    def velocity(video, struct, at_video, at_struct):
        found = model(video, struct, at_video, at_struct, batch.conditions, batch.start)
        return found.video, found.struct

    with torch.no_grad():
        return integrate(velocity, video, struct, sigma_video, sigma_struct)[0]


def test_tuning_brings_few_steps_to_where_many_went(teacher, batch):
    student = copy.deepcopy(teacher).requires_grad_(True)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-3)
    noise, drops = NoiseConfig(independent=0.0, prefix=1.0, rising=0.0), DropRates(0.0, 0.0, 0.0)
    for step in range(30):
        drawn = draw(batch, generator_for("tune", step), noise, drops)
        drawn, targets = taught(teacher, batch, drawn, STEPS, TEACHER_STEPS)
        terms_of(student, batch, drawn, targets=targets).total.backward()
        optimiser.step()
        optimiser.zero_grad()
    many = rollout(teacher, batch, STEPS * TEACHER_STEPS)
    before, after = ((rollout(model, batch, STEPS) - many).square().mean() for model in (teacher, student))
    print(f"distance of {STEPS} steps from {STEPS * TEACHER_STEPS}: {before:.4f} before, {after:.4f} after")
    assert after < before / 2
