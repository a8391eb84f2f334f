"""Scores of known signals, and thresholds applied to known scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dualforce_model.demo.voice import speak, utterance
from dualforce_model.quality import CHECKS, SCORES, QualityConfig, verdict
from dualforce_model.quality.sound import FLOOR_DB, listen
from dualforce_model.quality.sync import av_offset, mouth_opening

RATE = 16_000
GOOD = dict.fromkeys(SCORES) | {
    "duration_s": 5.0,
    "source_fps": 25.0,
    "decode_errors": 0,
    "longest_gap_s": 0.0,
    "face_px": 250.0,
    "face_px_at_512": 260.0,
    "coverage": 1.0,
    "multi_face_share": 0.0,
    "sharpness": 200.0,
    "luminance": 120.0,
    "contrast": 50.0,
    "expression": 0.02,
    "jitter": 0.005,
    "yaw_deg": 10.0,
    "pitch_deg": 10.0,
    "roll_deg": 5.0,
    "audio_present": True,
    "audio_coverage": 1.0,
    "loudness_db": -25.0,
    "speech_ratio": 0.6,
    "av_offset_frames": 1.0,
    "av_confidence": 0.9,
    "av_correlation": 0.9,
}


def noise(seconds: float, level: float) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_loudness():
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32)
    assert listen(tone).loudness_db == pytest.approx(-3.01, abs=0.01)
    silence = listen(np.zeros(RATE, np.float32))
    assert (silence.loudness_db, silence.speech_ratio) == (FLOOR_DB, 0)


def test_speech_is_told_from_noise_hum_and_silence():
    rng = np.random.default_rng(1)
    syllables = utterance(rng, 4.0, 120.0)
    voice = speak(rng, syllables, 4.0, RATE).astype(np.float32)
    assert listen(voice).speech_ratio > 0.4
    assert listen(voice + noise(4, 0.005)[: len(voice)]).speech_ratio > 0.3
    assert listen(noise(4, 0.1)).speech_ratio < 0.05
    hum = np.sin(2 * np.pi * 50 * np.arange(4 * RATE) / RATE).astype(np.float32)
    assert listen(hum).speech_ratio < 0.05


def test_energy_stands_at_its_frame():
    audio = np.zeros(50 * 640, np.float32)
    audio[20 * 640 - 160 : 20 * 640 + 160] = noise(0.02, 0.5)
    energy = listen(audio).energy
    assert energy.shape == (50,)
    assert energy.argmax() == 20
    assert energy[19] == pytest.approx(energy[21], abs=0.3 * energy[20])


@pytest.mark.parametrize("shift", [-12, -3, 0, 5, 10])
def test_offset_is_positive_when_the_sound_is_late(shift):
    rng = np.random.default_rng(2)
    wave = np.convolve(rng.random(160), np.ones(4) / 4, "valid") ** 3
    mouth, sound = wave[20:120], wave[20 - shift : 120 - shift]
    found = av_offset(mouth, sound**2 + 0.01 * rng.random(100))
    assert found.frames == pytest.approx(shift, abs=0.3)
    assert found.confidence > 0.6


def test_sound_that_has_nothing_to_do_with_the_mouth_gives_no_confidence():
    rng = np.random.default_rng(3)
    series = [np.convolve(rng.random(203), np.ones(4) / 4, "valid") for _ in range(20)]
    found = [av_offset(a, b**2) for a, b in zip(series[::2], series[1::2], strict=True)]
    assert max(f.confidence for f in found) < QualityConfig().min_av_confidence


def test_no_offset_without_movement_or_length():
    moving = np.abs(np.sin(np.arange(100)))
    assert av_offset(np.full(100, 0.1), moving) is None
    assert av_offset(moving[:30], moving[:30]) is None
    assert av_offset(moving, np.zeros(100)) is None


def test_mouth_opening_bridges_lost_frames():
    landmarks = np.zeros((5, 478, 3), np.float32)
    landmarks[:, 152, 1] = 100  # a face 100 high
    landmarks[:, 14, 1] = [0, 10, 99, 30, 40]
    valid = np.array([True, True, False, True, True])
    assert mouth_opening(landmarks, valid) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert not mouth_opening(landmarks, np.zeros(5, bool)).any()


def test_good_scores_pass_and_each_check_can_fail():
    assert verdict(GOOD, QualityConfig()) == []
    for check in CHECKS:
        limit = getattr(QualityConfig(), check.threshold) if check.threshold else None
        bad = {
            "min": lambda t: t - 0.01,
            "max": lambda t: t + 1,
            "within": lambda t: -t - 0.5,
            "true": lambda _: False,
        }[check.rule](limit)
        ((reason, explanation),) = verdict(GOOD | {check.score: bad}, QualityConfig())
        assert reason == check.reason
        assert explanation


def test_the_reason_a_person_would_name_comes_first():
    crowd = GOOD | {"face_px": 80.0, "multi_face_share": 0.9, "sharpness": 10.0, "jitter": 0.1}
    assert [reason for reason, _ in verdict(crowd, QualityConfig())] == [
        "several_faces",
        "face_too_small",
        "blurry",
        "jittery",
    ]
    assert verdict(GOOD | {"face_px": 77.4}, QualityConfig()) == [("face_too_small", "face 77 px < 128 px")]


def test_thresholds_alone_change_a_verdict():
    assert verdict(GOOD | {"face_px": 77.4}, QualityConfig(min_face_px=70)) == []
    unsure = GOOD | {"av_offset_frames": 10.0, "av_confidence": 0.3}
    assert verdict(unsure, QualityConfig()) == []
    assert verdict(unsure, QualityConfig(min_av_confidence=0.2))[0][0] == "audio_out_of_sync"


def test_scores_that_could_not_be_measured_do_not_count():
    mute = GOOD | dict.fromkeys(["loudness_db", "speech_ratio", "av_offset_frames", "audio_coverage"], float("nan"))
    assert [reason for reason, _ in verdict(mute | {"audio_present": False}, QualityConfig())] == ["no_audio"]
    with pytest.raises(KeyError):
        verdict({}, QualityConfig())


def test_checks_and_thresholds_fit_together():
    fields = {field.name for field in dataclasses.fields(QualityConfig)}
    used = {c.threshold for c in CHECKS} | {c.when[1] for c in CHECKS if c.when}
    assert used - {None} == fields
    assert {c.score for c in CHECKS} <= set(SCORES)
    assert all(f"    {name} " in QualityConfig.__doc__ for name in fields)
