"""The generator object: the same pictures however the sound comes in, as soon as promised, at constant memory."""

from __future__ import annotations

import numpy as np
import pytest

from dualforce_model.errors import BadInput
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.stream import Stream

QUICK = GenerateConfig(steps=2)


def offline(talker, picture, sound, config=QUICK) -> np.ndarray:
    stream = Stream(talker, picture, config)
    return np.stack([*stream.push(sound), *stream.finish()])


def test_frames_cover_the_sound(talker, picture, speech):
    frames = offline(talker, picture, speech)
    assert frames.shape == (31, 96, 96, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("samples", [1, 640, 641, 4 * 640, 5 * 640 + 1])
def test_sound_of_any_length_is_covered(talker, picture, speech, samples):
    assert len(offline(talker, picture, speech[:samples])) == -(-samples // 640)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_streamed_equals_offline(talker, picture, speech, guidance):
    config = GenerateConfig(steps=3, guidance_audio=guidance, order=2)
    whole = offline(talker, picture, speech, config)
    stream = Stream(talker, picture, config)
    pieces = np.random.default_rng(0).integers(0, 1500, 60)
    frames, at = [], 0
    for piece in pieces:
        frames += stream.push(speech[at : at + piece])
        at += piece
    assert at > len(speech)
    np.testing.assert_array_equal(np.stack([*frames, *stream.finish()]), whole)


def test_frames_come_as_soon_as_promised(talker, picture, speech):
    stream = Stream(talker, picture, QUICK)
    assert stream.latency_s < 0.1
    for at in range(0, len(speech), 320):
        for _ in stream.push(speech[at : at + 320]):
            pass
        latents = (stream.frames + 3) // 4
        following = 4 * latents + 1  # raw frames after the next latent
        assert stream.samples < round((following / 25 + stream.latency_s) * 16000) + 320


def test_seeds_and_sounds_matter_and_nothing_else(talker, picture, speech):
    first = offline(talker, picture, speech)
    np.testing.assert_array_equal(offline(talker, picture, speech), first)
    assert (offline(talker, picture, speech, GenerateConfig(steps=2, seed=1)) != first).any()
    assert (offline(talker, picture, speech[::-1].copy()) != first).any()


def test_a_scale_of_one_is_no_guidance(talker, picture, speech):
    plain = offline(talker, picture, speech)
    for name in ("guidance_audio", "guidance_reference"):
        np.testing.assert_array_equal(offline(talker, picture, speech, GenerateConfig(steps=2, **{name: 1.0})), plain)
        assert (offline(talker, picture, speech, GenerateConfig(steps=2, **{name: 3.0})) != plain).any()


def test_what_is_past_the_look_ahead_cannot_be_heard(talker, picture, speech):
    """Frames are drawn from the sound up to the promised latency: later sound changes none of them."""
    stream = Stream(talker, picture, QUICK)
    heard = round((17 / 25 + stream.latency_s) * 16000)
    other = speech.copy()
    other[heard:] = -other[heard:][::-1]
    np.testing.assert_array_equal(offline(talker, picture, speech)[:17], offline(talker, picture, other)[:17])
    assert (offline(talker, picture, speech)[17:] != offline(talker, picture, other)[17:]).any()


def test_memory_does_not_grow(talker, picture, clip):
    stream = Stream(talker, picture, GenerateConfig(steps=1))
    held = []
    for second in np.array_split(np.tile(clip.audio(), 3)[: 12 * 16000], 12):
        for _ in stream.push(second):
            pass
        voice = stream._chorus.voices[0]
        held.append(voice.held + len(voice._ear._samples) // 320)
    assert max(held[2:]) <= held[1] + 8
    assert stream.frames > 290


def test_bad_sound_is_refused(talker, picture):
    with pytest.raises(BadInput, match="no samples") as error:
        Stream(talker, picture, QUICK).finish()
    assert error.value.reason == "empty_audio"
    for bad in (np.full(100, np.nan), np.zeros((10, 2))):
        with pytest.raises(BadInput) as error:
            Stream(talker, picture, QUICK).push(bad)
        assert error.value.reason == "bad_audio"


def test_a_picture_of_another_size_is_refused(talker):
    for bad in (np.zeros((64, 64, 3), np.uint8), np.zeros((96, 96, 3), np.float32), np.zeros((1, 1, 3), np.uint8)):
        with pytest.raises(BadInput, match="96x96") as error:
            Stream(talker, bad, QUICK)
        assert error.value.reason == "wrong_picture"
