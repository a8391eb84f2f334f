"""The filter names what a person would name: on the real clips, on rendered ones, and on what people make of clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from cropped import crop, crop_all

from dualforce_model.demo.clips import SCENES, render_scene
from dualforce_model.demo.file import write_movie
from dualforce_model.faces import FaceCropConfig
from dualforce_model.media import Clip, GridReader, read_audio
from dualforce_model.quality import SCORES, QualityConfig, measure, verdict

SMALL = FaceCropConfig(size=128)  # scores do not depend on the size of the clips
ACCEPTED = (
    "good_hdtf_may_512_25",
    "good_hdtf_aoc_512_25",
    "good_retalk1_700_30",
    "good_latentsync_1080x1920_hevc",
    "good_lp_s18_1280x720_30",
)
REJECTED = {
    "silent_lp_d19_480_30": "silent_audio",
    "noaudio_echomimic_a_512_24": "no_audio",
    "bad_twofaces_ovi_1344x704_24": "several_faces",
    "bad_crowd_1080p_25": "several_faces",
    "bad_cartoon_cuts_640x360_24": "no_face",
    "bad_noface_7frames_2fps": "no_face",
    "bad_dance_fullbody_720x1080": "face_too_small",
}


def first_reasons(path: Path, out: Path) -> list[str]:
    """The first reason of each clip of a source, "" for an accepted one; or the reason why it has no clips."""
    outcome = crop(path, out, SMALL)
    return [reason_of(clip) for clip in outcome.clips] or [outcome.reason]


def reason_of(clip: Clip) -> str:
    failed = verdict(measure(clip), QualityConfig())
    return failed[0][0] if failed else ""


@pytest.fixture(scope="module")
def outcomes(shared_data):
    return crop_all(shared_data / "clips")


@pytest.mark.parametrize("name", ACCEPTED)
def test_good_real_clips_are_accepted(outcomes, name):
    assert [verdict(measure(clip), QualityConfig()) for clip in outcomes[name].clips] == [[]]


@pytest.mark.parametrize("name", REJECTED)
def test_bad_real_clips_are_named_rightly(outcomes, name):
    outcome = outcomes[name]
    assert {reason_of(clip) for clip in outcome.clips} or {outcome.reason} == {REJECTED[name]}
    assert {reason_of(clip) for clip in outcome.clips} <= {REJECTED[name]}


def test_every_clip_has_every_score(outcomes):
    for clip in (c for outcome in outcomes.values() for c in outcome.clips):
        scores = measure(clip)
        assert list(scores) == list(SCORES)
        missing = {name for name, value in scores.items() if value is None}
        assert missing <= {
            "audio_coverage",
            "loudness_db",
            "speech_ratio",
            "av_offset_frames",
            "av_correlation",
            "av_confidence",
            "identity_consistency",  # these two need ArcFace
            "identity_drift",
        }


TOLD = (
    "good_rotation_tag.mp4",
    "good_variable_rate.mp4",
    "bad_blurred.mp4",
    "bad_near_still.mp4",
    "bad_late_sound.mp4",
    "bad_too_short.mp4",
    "bad_truncated.mp4",
    "bad_no_face.mp4",
)


@pytest.mark.parametrize("name", TOLD)
def test_rendered_clips(tmp_path, name):
    (scene,) = (s for s in SCENES if s.file == name)
    render_scene(scene, tmp_path, (0, SCENES.index(scene)))
    assert first_reasons(tmp_path / scene.file, tmp_path / "out")[0] in (scene.reasons or ("",))


@pytest.fixture(scope="module")
def people(shared_data):
    """Pictures of two people who speak, and the sound of the first."""
    may, aoc = (shared_data / "clips" / name for name in ("good_hdtf_may_512_25.mp4", "good_hdtf_aoc_512_25.mp4"))
    sound, _ = read_audio(may, 0.0, 75 * 640)
    first, second = ([f.picture.rgb() for f in GridReader(path)][:75] for path in (may, aoc))
    return first, second, sound


def film(path: Path, frames: list[np.ndarray], sound: np.ndarray) -> Path:
    write_movie(path, frames, [Fraction(k, 25) for k in range(len(frames))], Fraction(25), sound, 16_000)
    return path


def zoomed(picture: np.ndarray, factor: float) -> np.ndarray:
    middle = (picture.shape[1] / 2, picture.shape[0] / 2)
    return cv2.warpAffine(picture, cv2.getRotationMatrix2D(middle, 0, factor), picture.shape[1::-1])


def test_a_still_portrait_beside_its_animation(tmp_path, people):
    moving, _, sound = people
    path = film(tmp_path / "collage.mp4", [np.hstack([moving[0], frame]) for frame in moving], sound)
    assert first_reasons(path, tmp_path / "out") == ["several_faces"] * 2


def test_two_people_of_whom_the_larger_alternates(tmp_path, people):
    one, other, sound = people
    sizes = [0.25 * np.sin(k / 6) for k in range(len(one))]
    frames = [np.hstack([zoomed(a, 0.8 + s), zoomed(b, 0.8 - s)]) for a, b, s in zip(one, other, sizes, strict=True)]
    assert first_reasons(film(tmp_path / "two.mp4", frames, sound), tmp_path / "out") == ["several_faces"] * 2


def test_a_small_portrait_in_the_corner(tmp_path, people, shared_data):
    _, other, sound = people
    large = [f.picture.rgb().copy() for f in GridReader(shared_data / "clips" / "good_lp_s18_1280x720_30.mp4")][:75]
    for frame, small in zip(large, other, strict=True):
        frame[20:220, 20:220] = cv2.resize(small, (200, 200), interpolation=cv2.INTER_AREA)
    assert first_reasons(film(tmp_path / "corner.mp4", large, sound), tmp_path / "out")[0] == "several_faces"


def test_a_slow_zoom_over_a_noisy_photograph_is_a_still(tmp_path, people):
    photograph, sound = people[0][0], people[2]
    rng = np.random.default_rng(0)
    frames = [zoomed(photograph, 1 + 0.002 * k).astype(float) + rng.normal(0, 2, photograph.shape) for k in range(75)]
    path = film(tmp_path / "zoom.mp4", [np.clip(f, 0, 255).astype(np.uint8) for f in frames], sound)
    assert first_reasons(path, tmp_path / "out") == ["near_still"]


def test_other_sizes_and_two_shots(tmp_path, people):
    one, other, _ = people
    frames = [cv2.resize(f, (458, 458), interpolation=cv2.INTER_AREA) for f in one + other]
    speech = np.tile(people[2], 2)
    assert first_reasons(film(tmp_path / "shots.mp4", frames, speech), tmp_path / "out") == ["", ""]


def test_dark_and_small_faces(tmp_path, people):
    one, _, sound = people
    dark = film(tmp_path / "dark.mp4", [(f * 0.12).astype(np.uint8) for f in one], sound)
    assert first_reasons(dark, tmp_path / "out") == ["too_dark"]
    small = [cv2.resize(f, (200, 200), interpolation=cv2.INTER_AREA) for f in one]
    assert first_reasons(film(tmp_path / "small.mp4", small, sound), tmp_path / "out") == ["face_too_small"]
