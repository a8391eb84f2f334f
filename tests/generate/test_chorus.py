"""Several at once, chunks, given motion: the stream around the rollout, with real pictures and voices."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest

from dualforce_model.errors import BadInput
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.motion import Motion
from dualforce_model.generate.stream import Chorus, Stream
from dualforce_model.store import read_tensors

QUICK = GenerateConfig(steps=2)


def offline(talker, picture, sound, config=QUICK, **given) -> np.ndarray:
    with Stream(talker, picture, config, **given) as stream:
        return np.stack([*stream.push(sound), *stream.finish()])


@pytest.fixture(scope="module")
def others(run_folder):
    """Two more people, their first pictures and a second and less of their voices."""
    from dualforce_model.media import Clip

    clips = [Clip(run_folder / "clips", name) for name in ("good_hdtf_aoc_512_25-s0t0", "good_hdtf_may_512_25-s0t0")]
    return [
        (next(iter(clip.frames())), clip.audio()[:length]) for clip, length in zip(clips, (9000, 16000), strict=True)
    ]


@pytest.mark.parametrize("settings", [{}, {"guidance_audio": 2.0, "chunk": 2}])
def test_speakers_at_once_are_each_alone(talker, picture, speech, others, settings):
    """Tolerance: one grey level of 255; a batch of another size rounds otherwise."""
    config, people = GenerateConfig(steps=2, **settings), [(picture, speech), *others]
    with Chorus(talker, [face for face, _ in people], config, seeds=[3, 4, 3]) as chorus:
        pieces = itertools.zip_longest(*(np.array_split(sound, 7) for _, sound in people))
        shown = [one for sounds in pieces for one in chorus.push(sounds)]
        shown += chorus.finish()
    for at, (face, sound) in enumerate(people):
        ours = np.stack([one.picture for one in shown if one.speaker == at])
        alone = offline(talker, face, sound, GenerateConfig(steps=2, seed=[3, 4, 3][at], **settings))
        assert ours.shape == alone.shape
        assert np.abs(ours.astype(int) - alone).max() <= 1


def test_who_falls_silent_does_not_hold_the_others(talker, picture, speech, others):
    (face, short), silence = others[0], np.zeros(0, np.float32)
    with Chorus(talker, [picture, face], QUICK) as chorus:
        for _ in chorus.push([speech[:4000], short[:4000]]):
            pass
        chorus.end(1)
        frames = [one.speaker for one in chorus.push([speech[4000:], silence])]
        assert frames.count(0) > 15
        assert chorus.frames[1] == -(-4000 // 640)
        assert sum(one.speaker for one in chorus.finish()) == 0
        assert chorus.frames[0] == 31


@pytest.mark.parametrize("chunk", [2, 3])
def test_chunks_stream_as_they_run_offline_and_cover_the_sound(talker, picture, speech, chunk):
    config = GenerateConfig(steps=2, chunk=chunk, stagger=0.2)
    whole = offline(talker, picture, speech, config)
    assert len(whole) == 31
    stream = Stream(talker, picture, config)
    frames = [frame for piece in np.array_split(speech, 23) for frame in stream.push(piece)]
    np.testing.assert_array_equal(np.stack([*frames, *stream.finish()]), whole)
    assert (whole != offline(talker, picture, speech)).any()
    for length in (1, 640, 5 * 640 + 1):
        assert len(offline(talker, picture, speech[:length], config)) == -(-length // 640)


def test_a_half_used_iterator_loses_nothing(talker, picture, speech):
    whole = offline(talker, picture, speech)
    stream = Stream(talker, picture, QUICK)
    frames = []
    for piece in np.array_split(speech, 4):
        frames += itertools.islice(stream.push(piece), 3)  # and the iterator is dropped
    np.testing.assert_array_equal(np.stack([*frames, *stream.finish()]), whole)
    assert stream.frames == 31


def test_given_motion_drives_the_frames_that_it_covers(talker, picture, speech, run_folder):
    arrays = read_tensors(run_folder / "features" / "struct_latents" / "good_hdtf_may_512_25-s0t0.safetensors")
    motion = Motion(arrays["struct"][:11], arrays["valid"][:11])  # latents 0, 1, 2: raw frames 0 .. 8
    stream = Stream(talker, picture, QUICK, motion=motion)
    moves = np.stack([stream.struct for _ in itertools.chain(stream.push(speech), stream.finish())])
    np.testing.assert_allclose(moves[:9], arrays["struct"][:9], atol=1e-4)
    assert np.abs(moves[9:11] - arrays["struct"][9:11]).max() > 1e-2  # that latent is not wholly known
    driven = offline(talker, picture, speech, motion=motion)
    assert (driven[:9] != offline(talker, picture, speech)[:9]).any()
    hidden = Motion(motion.struct, np.arange(11) != 6)  # latent 2 holds raw frames 5 .. 8
    stream = Stream(talker, picture, QUICK, motion=hidden)
    moves = np.stack([stream.struct for _ in stream.push(speech)])
    np.testing.assert_allclose(moves[:5], arrays["struct"][:5], atol=1e-4)
    assert np.abs(moves[5:9] - arrays["struct"][5:9]).max() > 1e-2


def test_text_steers_and_its_scale_needs_it(talker, picture, speech):
    words = np.random.default_rng(0).standard_normal((3, talker.model.config.text_dim)).astype(np.float16)
    plain = offline(talker, picture, speech[:3200])
    assert (offline(talker, picture, speech[:3200], text=words) != plain).any()
    stronger = GenerateConfig(steps=2, guidance_text=4.0)
    assert (offline(talker, picture, speech[:3200], stronger, text=words) != plain).any()
    for config, text, reason in ((stronger, None, "no_text"), (QUICK, words[:, :7], "wrong_text")):
        with pytest.raises(BadInput) as error:
            Stream(talker, picture, config, text=text)
        assert error.value.reason == reason


def test_the_wrong_things_at_once_are_said(talker, picture, speech):
    with pytest.raises(ValueError, match="at least one picture"):
        Chorus(talker, [], QUICK)
    with pytest.raises(ValueError, match="one seed and motion for each of 2"):
        Chorus(talker, [picture, picture], QUICK, seeds=[1])
    stream = Stream(talker, picture, QUICK)
    stream.close()
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.push(speech)


def test_a_prepared_cache_is_used_again_and_changes_nothing(talker, picture, speech):
    config = GenerateConfig(steps=2, guidance_audio=2.0)
    first = offline(talker, picture, speech, config)
    talker.prepare(config)
    (kept,) = [rollout for rollouts in talker.idle.values() for rollout in rollouts]
    assert len(offline(talker, picture, speech, GenerateConfig(steps=3, guidance_audio=2.0))) == 31  # in the same cache
    for seed in (0, 0, 1):
        again = offline(talker, picture, speech, GenerateConfig(steps=2, guidance_audio=2.0, seed=seed))
        assert (seed == 0) == np.array_equal(again, first)
        assert [rollout for rollouts in talker.idle.values() for rollout in rollouts] == [kept]
    stream = Stream(talker, picture, config)
    assert not any(talker.idle.values())
    stream.close()
    talker.idle.clear()
    talker.room.clear()


def test_what_is_forgotten_frees_its_cache(talker, picture, speech):
    stream = Stream(talker, picture, QUICK)
    next(iter(stream.push(speech)))
    cache = weakref.ref(stream._chorus._rollout.cache)
    del stream
    gc.collect()
    assert cache() is None
