"""Acceptance 1, 2 and 5: nothing hears the future, to the bit; a sample does not feel its batch; sound has its time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.model.support import CASES, inputs, nudged, tiny

names = [case[0] for case in CASES]


def same_before(a, b, k):
    return (
        torch.equal(a.video[:, :, :k], b.video[:, :, :k])
        and torch.equal(a.struct[:, :k], b.struct[:, :k])
        and torch.equal(a.flame[:, :k], b.flame[:, :k])
    )


@pytest.mark.parametrize(("name", "config", "B", "F", "H", "W"), CASES, ids=names)
@pytest.mark.parametrize("start", [0, 5])
def test_no_frame_hears_the_future(name, config, B, F, H, W, start):
    model, given = nudged(config), inputs(config, B, F, H, W, start)
    with torch.no_grad():
        before = given.through(model)
        for k in range(1, F):
            changes = {
                "video": given.video.index_fill(2, torch.tensor([k]), 3.0),
                "struct": given.struct.index_fill(1, torch.tensor([k]), -3.0),
                "sigma_video": given.sigma_video.index_fill(1, torch.tensor([k]), 0.5),
                "sigma_struct": given.sigma_struct.index_fill(1, torch.tensor([k]), 0.5),
            }
            audio = given.conditions.audio.clone()
            audio[:, 8 * (k - 1) + config.audio_span :] = 2.0  # all that frame k-1 does not hear
            changes["conditions"] = replace(given.conditions, audio=audio)
            for what, value in changes.items():
                after = given.changed(**{what: value}).through(model)
                assert same_before(before, after, k), f"{what} of frame {k} moved an earlier frame"
                moved = not torch.equal(before.video[:, :, k], after.video[:, :, k])
                moved_struct = not torch.equal(before.struct[:, k], after.struct[:, k])
                # the tiny bridge stands before the first blocks, where a stream does not feel its own level yet
                assert moved or "struct" in what, f"{what} of frame {k} did nothing"
                assert moved_struct or "video" in what, f"{what} of frame {k} did nothing"


@pytest.mark.parametrize("F", [1, 2, 8, 21, 33])
def test_every_length_is_causal_and_a_prefix_stands_alone(F):
    config = tiny("audio_lookahead_ms=0")
    model, given = nudged(config), inputs(config, 1, F, 4, 4, start=2)
    with torch.no_grad():
        whole = given.through(model)
        k = (F + 1) // 2
        heard = 8 * (k - 1) + config.audio_span
        prefix = given.changed(
            video=given.video[:, :, :k],
            struct=given.struct[:, :k],
            sigma_video=given.sigma_video[:, :k],
            sigma_struct=given.sigma_struct[:, :k],
            conditions=replace(
                given.conditions,
                audio=given.conditions.audio[:, :heard],
                audio_valid=given.conditions.audio_valid[:, :heard],
            ),
        ).through(model)
    torch.testing.assert_close(prefix.video, whole.video[:, :, :k], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(prefix.struct, whole.struct[:, :k], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "config", "B", "F", "H", "W"), CASES, ids=names)
def test_a_sample_does_not_feel_its_batch(name, config, B, F, H, W):
    model, given = nudged(config), inputs(config, 3, F, H, W)
    given.start = torch.tensor([0, 4, 9])
    with torch.no_grad():
        together = given.through(model)
        for b in range(3):
            alone = given.sample(b).through(model)
            torch.testing.assert_close(alone.video, together.video[b : b + 1], atol=2e-5, rtol=1e-5)
            torch.testing.assert_close(alone.struct, together.struct[b : b + 1], atol=2e-5, rtol=1e-5)


def test_frames_after_a_short_clip_change_nothing_in_it():
    config = tiny()
    model, given = nudged(config), inputs(config, 2, 6, 4, 4)
    padded = given.changed(video=given.video.clone(), struct=given.struct.clone())
    padded.video[1, :, 4:] = 0
    padded.struct[1, 4:] = 0
    with torch.no_grad():
        a, b = given.through(model), padded.through(model)
    assert torch.equal(a.video[:, :, :4], b.video[:, :, :4])
    assert torch.equal(a.video[0], b.video[0])
    assert torch.isfinite(b.video).all()


def test_what_empty_struct_slots_hold_is_ignored():
    config = tiny()
    model, given = nudged(config), inputs(config, 2, 3, 4, 4)
    given.start = torch.tensor([0, 6])
    filled = given.struct.clone()
    filled[:, 0, :3] = 100.0
    with torch.no_grad():
        a, b = given.through(model), given.changed(struct=filled).through(model)
    assert torch.equal(a.video[0], b.video[0])
    assert torch.equal(a.struct[0, 1:], b.struct[0, 1:])
    assert torch.equal(a.struct[0, 0, 3], b.struct[0, 0, 3])
    assert not torch.equal(a.video[1], b.video[1])  # mid-clip those slots are real


def test_unmeasured_struct_slots_are_not_seen():
    config = tiny()
    model, given = nudged(config), inputs(config, 1, 3, 4, 4, start=3)
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    valid[0, 1, :2] = False
    other = given.struct.clone()
    other[0, 1, :2] = 50.0
    given.struct_valid = valid
    with torch.no_grad():
        a, b = given.through(model), given.changed(struct=other).through(model)
    assert torch.equal(a.video, b.video)
    assert torch.equal(a.struct[:, 0], b.struct[:, 0])
    assert torch.equal(a.struct[:, 2], b.struct[:, 2])


def test_the_order_of_sound_matters():
    config = tiny()
    model, given = nudged(config), inputs(config, 1, 4, 4, 4)
    order = torch.randperm(given.conditions.audio.shape[1], generator=torch.Generator().manual_seed(3))
    shuffled = replace(given.conditions, audio=given.conditions.audio[:, order])
    with torch.no_grad():
        a, b = given.through(model), given.changed(conditions=shuffled).through(model)
    assert not torch.allclose(a.video, b.video, atol=1e-4)
    assert not torch.allclose(a.struct, b.struct, atol=1e-4)


def test_sound_shifted_by_one_latent_is_heard_one_latent_later():
    config = tiny()
    model, F = nudged(config), 5
    given = inputs(config, 1, F, 4, 4, start=10)
    n = given.conditions.audio.shape[1]

    def touched(feature):
        """Frames whose video output moves when one audio feature does."""
        audio = given.conditions.audio.clone()
        audio[:, feature] += 5
        # the bridge and the past carry sound onwards: only the first frame that hears it is the window's
        with torch.no_grad():
            after = given.changed(conditions=replace(given.conditions, audio=audio)).through(model)
        moved = (after.video != before.video).flatten(3).any(-1).any(1)[0]
        return int(moved.float().argmax()) if moved.any() else None

    with torch.no_grad():
        before = given.through(model)
    first = {feature: touched(feature) for feature in range(0, n, 3)}
    for feature, frame in first.items():
        expected = max(0, -(-(feature - config.audio_span + 1) // 8))
        assert frame == expected, f"feature {feature} is first heard by frame {frame}, not {expected}"
    for feature in range(12, n - 8, 3):
        shifted = touched(feature + 8)
        if first.get(feature) and shifted is not None:
            assert shifted == first[feature] + 1
