from __future__ import annotations

import numpy as np
import pytest
from made_clip import make_clip

from dualforce_model import timeline
from dualforce_model.errors import BadInput
from dualforce_model.features import audio_features
from dualforce_model.features.audio_features import HOP, MARGIN, AudioFeaturesConfig, LogMel, features_of

CONFIG = AudioFeaturesConfig()


def test_rows_and_type(may):
    audio = audio_features.extract(may, CONFIG)["audio"]
    assert audio.shape == (2 * may.frame_count, 80)
    assert audio.dtype == np.float32
    assert -0.5 < audio.mean() < 0.5
    assert 0.5 < audio.std() < 1.5


@pytest.mark.parametrize("seed", range(5))
def test_any_pieces_give_the_same_bits(may, seed):
    samples = may.audio()
    whole = features_of(samples, CONFIG)
    rng = np.random.default_rng(seed)
    stream, given, at = LogMel(CONFIG), [], 0
    while at < len(samples):
        n = int(rng.choice([0, 1, 95, 96, 97, 319, 320, 640, 2560, 5000]))
        given.append(stream.push(samples[at : at + n]))
        at += n
    given.append(stream.finish())
    assert np.array_equal(np.concatenate(given), whole)


def test_a_feature_comes_as_soon_as_its_look_ahead_is_there():
    stream = LogMel(CONFIG)
    assert len(stream.push(np.zeros(HOP + MARGIN - 1, np.float32))) == 0
    assert len(stream.push(np.zeros(1, np.float32))) == 1
    assert len(stream.push(np.zeros(10 * HOP, np.float32))) == 10
    assert len(stream.finish()) == 0


def test_context_is_the_declared_one():
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(40 * HOP)).astype(np.float32)
    whole = features_of(samples, CONFIG)
    for sample in (0, 1000, 3199, 3200, 5055, 5056):
        changed = samples.copy()
        changed[sample] += 0.5
        touched = np.flatnonzero((features_of(changed, CONFIG) != whole).any(1))
        first, last = (sample - MARGIN) // HOP, (sample + MARGIN) // HOP
        assert touched.tolist() == [k for k in range(first, last + 1) if k >= 0]


def test_an_impulse_is_strongest_in_the_feature_that_owns_its_sample():
    for sample in [*range(3 * HOP - 3, 3 * HOP + 3), 3 * HOP + 160, 0, 20 * HOP - 1]:
        samples = np.zeros(20 * HOP, np.float32)
        samples[sample] = 1
        assert features_of(samples, CONFIG).sum(1).argmax() == sample // HOP


def test_a_tone_lies_in_its_band_whatever_the_loudness_of_the_rest():
    time = np.arange(timeline.SAMPLE_RATE) / timeline.SAMPLE_RATE
    bands = audio_features.mel_bands(CONFIG)
    for hz in (150, 440, 1000, 3000, 7000):
        tone = (0.1 * np.sin(2 * np.pi * hz * time)).astype(np.float32)
        loud = np.concatenate([tone, np.ones_like(tone)])
        centre = bands[:, features_of(tone, CONFIG)[10].argmax()] @ np.arange(len(bands)) * timeline.SAMPLE_RATE / 512
        assert abs(centre - hz) < max(40, 0.06 * hz)
        assert np.array_equal(features_of(tone, CONFIG)[:49], features_of(loud, CONFIG)[:49])  # nothing clip-wide


def test_silence_is_the_floor():
    quiet = features_of(np.zeros(10 * HOP, np.float32), CONFIG)
    assert quiet.shape == (10, 80)
    assert (quiet == quiet[0, 0]).all()
    assert np.isfinite(quiet).all()


def test_sound_of_another_length_is_named(tmp_path, monkeypatch):
    clip = make_clip(tmp_path, "x", np.zeros((8, 32, 32, 3), np.uint8))
    monkeypatch.setitem(clip.info, "frames", 9)
    with pytest.raises(BadInput, match="sample"):
        audio_features.extract(clip, CONFIG)


def test_bands_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match="too narrow"):
        LogMel(AudioFeaturesConfig(mels=80, low_hz=100, high_hz=500))
