"""Acceptance 3: frame by frame with the cache is the same as the whole window at once, with and without eviction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dualforce_model.model import Conditions, without
from dualforce_model.model.beside import Beside
from dualforce_model.model.cache import put
from tests.model.support import CASES, inputs, nudged, odd, tiny

names = [case[0] for case in CASES]


def rollout(model, given, window, disturb=True, chunk=1):
    """Each frame of `given` through the cache, `chunk` at a time, each at its own noise level."""
    config, (B, _, F, H, W) = model.config, given.video.shape
    cache = model.new_cache(given.conditions, (H, W), B, window, start=int(given.start[0]), chunk=chunk)
    outs = []
    for f in range(0, F, chunk):
        here, heard = slice(f, f + chunk), slice(8 * f, 8 * (f + chunk - 1) + config.audio_span)
        model.begin_frame(cache, given.conditions.audio[:, heard], given.conditions.audio_valid[:, heard])
        frame = given.video[:, :, here], given.struct[:, here]
        levels = given.sigma_video[:, here], given.sigma_struct[:, here]
        if disturb:  # other passes of the same frame must leave no trace
            model.denoise_frame(cache, frame[0] + 1, frame[1] - 1, levels[0] * 0.5, levels[1] * 0.5)
        outs.append(model.denoise_frame(cache, *frame, *levels))
        assert cache.frame == f
        model.advance(cache)
    return torch.cat([out.video for out in outs], 2), torch.cat([out.struct for out in outs], 1)


@pytest.mark.parametrize(("name", "config", "B", "F", "H", "W"), CASES, ids=names)
@pytest.mark.parametrize("start", [0, 6])
def test_rollout_is_the_window_pass(name, config, B, F, H, W, start):
    model, given = nudged(config), inputs(config, B, F, H, W, start)
    with torch.no_grad():
        whole = given.through(model)
        video, struct = rollout(model, given, window=F)
    torch.testing.assert_close(video, whole.video, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(struct, whole.struct, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("shape", [tiny(), odd()], ids=["tiny", "odd"])
def test_eviction_is_an_explicit_window(shape, start, window):
    model = nudged(replace(shape, window=window))
    given = inputs(shape, 2, 6, 4, 6, start)
    with torch.no_grad():
        whole = given.through(model)
        video, struct = rollout(model, given, window)
        unwindowed = given.through(nudged(shape))
    torch.testing.assert_close(video, whole.video, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(struct, whole.struct, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(whole.video[:, :, -1], unwindowed.video[:, :, -1], atol=1e-4)


@pytest.mark.parametrize("chunk", [2, 3])
@pytest.mark.parametrize("window", [1, 2, 6])
def test_frames_denoised_together_are_the_window_pass_too(chunk, window):
    """Each at its own noise level, each seeing the frames up to itself, whatever was evicted."""
    shape = odd() if chunk == 3 else tiny()
    model, given = nudged(replace(shape, window=window)), inputs(shape, 2, 6, 4, 6, start=0)
    with torch.no_grad():
        whole = given.through(model)
        video, struct = rollout(model, given, window, chunk=chunk)
    torch.testing.assert_close(video, whole.video, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(struct, whole.struct, atol=2e-5, rtol=1e-5)


def test_a_cache_begun_again_is_a_new_one():
    config = tiny()
    model, given, other = nudged(config), inputs(config, 2, 4, 4, 4), inputs(config, 2, 4, 4, 4, seed=2)
    with torch.no_grad():
        cache = model.new_cache(other.conditions, (4, 4), 2, window=2)
        fresh = model.new_cache(given.conditions, (4, 4), 2, window=2)
        address = cache.sink[0][0].data_ptr()
        for f in range(3):
            model.begin_frame(cache, other.conditions.audio[:, 8 * f : 8 * f + config.audio_span])
            model.commit_frame(cache, other.video[:, :, f : f + 1], other.struct[:, f : f + 1])
        model.restart(cache, given.conditions)
        assert cache.sink[0][0].data_ptr() == address
        for f in range(4):
            outs = []
            for one in (cache, fresh):
                model.begin_frame(one, given.conditions.audio[:, 8 * f : 8 * f + config.audio_span])
                level = given.sigma_video[:, f : f + 1], given.sigma_struct[:, f : f + 1]
                outs.append(model.denoise_frame(one, given.video[:, :, f : f + 1], given.struct[:, f : f + 1], *level))
                model.advance(one)
            assert torch.equal(outs[0].video, outs[1].video)
            assert torch.equal(outs[0].struct, outs[1].struct)
        with pytest.raises(ValueError, match="another reference"):
            model.restart(cache, replace(given.conditions, reference=None))


@pytest.mark.parametrize("change", [
    {"bridge": {"strategy": "none"}},
    {"bridge": {"direction": "struct_to_video"}},
    {"bridge": {"direction": "video_to_struct"}},
    {"struct_tokens": 1},
    {"reference_spread": 0.1},
])  # fmt: skip
def test_every_variant_rolls_out_as_it_trains(change):
    config = tiny(**change)
    model, given = nudged(config), inputs(config, 2, 4, 4, 4)
    with torch.no_grad():
        whole = given.through(model)
        video, struct = rollout(model, given, window=4)
    torch.testing.assert_close(video, whole.video, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(struct, whole.struct, atol=2e-5, rtol=1e-5)


def test_committed_frames_enter_at_the_context_level():
    config = tiny()
    model, given = nudged(config), inputs(config, 2, 3, 4, 4)
    given.sigma_video = torch.tensor([[0.0, 0.0, 0.7]] * 2)
    given.sigma_struct = torch.tensor([[0.0, 0.0, 0.4]] * 2)
    with torch.no_grad():
        whole = given.through(model)
        cache = model.new_cache(given.conditions, (4, 4), 2, window=8)
        for f in range(3):
            model.begin_frame(cache, given.conditions.audio[:, 8 * f : 8 * f + config.audio_span])
            video, struct = given.video[:, :, f : f + 1], given.struct[:, f : f + 1]
            noisy = torch.full((2, 1), 0.9)
            model.denoise_frame(cache, video * 2, struct * 2, noisy, noisy)
            if f < 2:
                model.commit_frame(cache, video, struct)
        last = model.denoise_frame(cache, video, struct, given.sigma_video[:, 2:], given.sigma_struct[:, 2:])
    torch.testing.assert_close(last.video, whole.video[:, :, 2:], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(last.struct, whole.struct[:, 2:], atol=2e-5, rtol=1e-5)


class Watched(Beside):
    """Says whether what is launched now runs beside."""

    within = False

    def __enter__(self):
        assert not self.within
        self.within = True

    def __exit__(self, *_):
        self.within = False


def test_the_struct_tower_alone_runs_beside():
    config = tiny()
    model, given = nudged(config), inputs(config, 2, 3, 4, 4)
    with torch.no_grad():
        expected = rollout(model, given, window=2)
        model.beside, seen = Watched(), []
        parts = [(True, block) for block in model.struct.blocks] + [(False, block) for block in model.video.blocks]
        for bridge in model.bridges.values():
            parts += [(True, bridge.to_struct), (False, bridge.to_video)]
        for beside, part in parts:
            part.register_forward_pre_hook(lambda *_, beside=beside: seen.append(model.beside.within is beside))
        found = rollout(model, given, window=2)
    assert len(seen) == 6 * len(parts)  # three frames, each twice
    assert all(seen)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "skip"), [(8, 0), (10, 0), (8, 1)])  # eight bytes fit, do not, stand askew
def test_frames_are_put_into_their_slots(dtype, width, skip):
    ring = torch.zeros(2, 5, 3, 2, width, dtype=dtype)
    new = torch.randn(2, 2, 3, 2, width + skip, dtype=dtype)[..., skip:]
    put(ring[:, :4], torch.tensor([3, 1]), new)
    expected = torch.zeros_like(ring)
    expected[:, 3], expected[:, 1] = new[:, 0], new[:, 1]
    assert torch.equal(ring, expected)


def test_addresses_stay_for_a_captured_graph():
    config = tiny()
    model, given = nudged(config), inputs(config, 1, 5, 4, 4)

    def addresses(cache):
        rings = [*cache.video, *cache.struct, *filter(None, [*cache.bridge_video, *cache.bridge_struct])]
        held = [*cache.video_places.full, *cache.clock[0], cache.video_heard[0][0], cache.slot, cache.latents]
        return [t.data_ptr() for ring in rings for t in (ring.k, ring.v)] + [t.data_ptr() for t in held]

    with torch.no_grad():
        cache, seen = model.new_cache(given.conditions, (4, 4), 1, window=2), []
        for f in range(5):
            model.begin_frame(cache, given.conditions.audio[:, 8 * f : 8 * f + config.audio_span])
            model.commit_frame(cache, given.video[:, :, f : f + 1], given.struct[:, f : f + 1])
            seen.append(addresses(cache))
    assert all(found == seen[0] for found in seen)


def test_dropped_conditions_are_the_nulls_in_the_cache_too():
    config = tiny()
    model, given = nudged(config), inputs(config, 1, 2, 4, 4)
    drop = torch.tensor([True])
    dropped = replace(given.conditions, drop_audio=drop, drop_text=drop, drop_reference=drop)
    with torch.no_grad():
        with_drops = given.changed(conditions=dropped).through(model)
        nothing = without(given.conditions, audio=True, text=True, reference=True)
        assert nothing == Conditions(text_mask=nothing.text_mask, audio_valid=nothing.audio_valid)
        bare = given.changed(conditions=nothing).through(model)
        torch.testing.assert_close(with_drops.video, bare.video, atol=2e-5, rtol=1e-5)
        cached, _ = rollout(model, given.changed(conditions=dropped), window=2)
        torch.testing.assert_close(cached, bare.video, atol=2e-5, rtol=1e-5)
        assert not torch.allclose(bare.video, given.through(model).video, atol=1e-3)


def test_misuse_is_said():
    config = tiny()
    model, given = nudged(config), inputs(config, 1, 1, 4, 4)
    cache = model.new_cache(given.conditions, (4, 4), 1, window=2)
    with pytest.raises(ValueError, match="begin_frame"):
        model.denoise_frame(cache, given.video, given.struct, given.sigma_video, given.sigma_struct)
    with pytest.raises(ValueError, match="0"):
        model.new_cache(given.conditions, (4, 4), 1, window=0)
    with pytest.raises(ValueError, match="windows of 3"):
        nudged(tiny("window=3")).new_cache(given.conditions, (4, 4), 1, window=4)
