"""Each demo clip is what its row of the expected list says: picture, sound, truth, trap, bytes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from dualforce_model.demo import Expected, mismatches, read
from dualforce_model.demo.clips import SCENES, render_scene
from dualforce_model.timeline import FPS

Demo = tuple[Path, dict[str, Expected]]
SPOKEN = [s.file for s in SCENES if s.sound == "speech" and len(s.sitters) == 1 and not s.still and s.keep == 1]
WHOLE = [s.file for s in SCENES if s.keep == 1]


def pictures(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """Presentation times and upright RGB pictures."""
    with av.open(str(path)) as movie:
        frames = list(movie.decode(video=0))
    upright = [np.ascontiguousarray(np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90)) for f in frames]
    return np.array([float(f.time) for f in frames]), upright


def sound(path: Path) -> tuple[float, int, np.ndarray]:
    """Time of the first sample, rate, samples."""
    with av.open(str(path)) as movie:
        frames = list(movie.decode(audio=0))
    return float(frames[0].time), frames[0].sample_rate, np.concatenate([f.to_ndarray().mean(0) for f in frames])


def loudness(path: Path, times: np.ndarray) -> np.ndarray:
    """Root mean square of the 20 ms around each of `times`."""
    start, rate, samples = sound(path)
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    first = np.clip(((times - start - 0.01) * rate).astype(int), 0, len(samples))
    last = np.clip(first + rate // 50, 0, len(samples))
    return np.sqrt((power[last] - power[first]) / np.maximum(last - first, 1))


def measured_mouth(path: Path, clip: Expected) -> np.ndarray:
    """Lip gap over face width that MediaPipe sees, on the clip's 25 fps grid."""
    from mediapipe.python.solutions.face_mesh import FaceMesh

    times, frames = pictures(path)
    gaps = []
    with FaceMesh(max_num_faces=1, refine_landmarks=True) as mesh:
        for frame in frames:
            faces = mesh.process(frame).multi_face_landmarks
            assert faces, f"no face found in a picture of {clip.file}"
            points = np.array([(p.x * frame.shape[1], p.y * frame.shape[0]) for p in faces[0].landmark])
            width = np.ptp(points[:, 0])
            assert width >= 128
            gaps.append(np.linalg.norm(points[13] - points[14]) / width)
    grid = clip.video_start_s + np.arange(len(clip.mouth)) / FPS
    return np.interp(grid, times, gaps)


def test_list_has_good_ones_and_every_trap(demo: Demo) -> None:
    folder, clips = demo
    assert len(clips) >= 14
    traps = "several_faces no_face blurry near_still no_audio silent_audio audio_out_of_sync too_short truncated"
    assert {reason for clip in clips.values() for reason in clip.reasons} == set(traps.split())
    good = [c for c in clips.values() if c.status == "accepted"]
    assert len(good) >= 5
    assert len({(c.width, c.height) for c in good}) >= 5
    assert len({c.fps for c in good}) >= 4
    assert any(c.variable_fps for c in good)
    assert any(c.rotation for c in good)
    assert read(folder) == list(clips.values())
    assert {p.name for p in folder.iterdir()} == {*clips, "expected.json"}


@pytest.mark.parametrize("file", WHOLE)
def test_picture_and_length_are_as_listed(demo: Demo, file: str) -> None:
    folder, clips = demo
    clip = clips[file]
    times, frames = pictures(folder / file)
    assert frames[0].shape == (clip.height, clip.width, 3)
    assert times[0] == pytest.approx(clip.video_start_s, abs=1e-3)
    assert times[-1] - times[0] == pytest.approx(clip.seconds, abs=0.1)
    assert len(clip.mouth) == int(clip.seconds * FPS + 1e-6)


@pytest.mark.parametrize("file", SPOKEN)
def test_sound_follows_the_true_mouth_at_the_true_offset(demo: Demo, file: str) -> None:
    folder, clips = demo
    clip = clips[file]
    grid = clip.video_start_s + np.arange(len(clip.mouth)) / FPS
    lags = np.arange(-600, 601, 10)
    match = [np.corrcoef(clip.mouth, loudness(folder / file, grid + lag / 1000))[0, 1] for lag in lags]
    assert max(match) > 0.9
    assert abs(lags[int(np.argmax(match))] - clip.av_offset_ms) <= 20


@pytest.mark.parametrize("file", [f for f in SPOKEN if f.startswith("good") or f == "bad_late_sound.mp4"])
def test_mediapipe_sees_the_true_mouth_opening(demo: Demo, file: str) -> None:
    folder, clips = demo
    clip = clips[file]
    mouth = measured_mouth(folder / file, clip)
    assert np.corrcoef(clip.mouth, mouth)[0, 1] > 0.8
    grid = clip.video_start_s + np.arange(len(clip.mouth)) / FPS
    frames = np.arange(-15, 16)
    match = [np.corrcoef(mouth, loudness(folder / file, grid + n / FPS))[0, 1] for n in frames]
    assert abs(frames[int(np.argmax(match))] * 1000 / FPS - clip.av_offset_ms) <= 40


def test_variable_rate_is_real(demo: Demo) -> None:
    folder, _ = demo
    times, _ = pictures(folder / "good_variable_rate.mp4")
    gaps = np.diff(times)
    assert 0.1 < np.mean(gaps > 0.05) < 0.9
    with av.open(str(folder / "good_variable_rate.mp4")) as movie:
        video = movie.streams.video[0]
        assert float(video.base_rate) == pytest.approx(30, abs=0.1)
        assert float(video.average_rate) < 26


def test_rotation_is_a_tag(demo: Demo) -> None:
    folder, clips = demo
    with av.open(str(folder / "good_rotation_tag.mp4")) as movie:
        frame = next(movie.decode(video=0))
    clip = clips["good_rotation_tag.mp4"]
    assert (frame.width, frame.height) == (clip.height, clip.width)
    assert frame.rotation == 90


def test_traps_are_what_they_say(demo: Demo) -> None:
    folder, _ = demo
    with av.open(str(folder / "bad_no_audio.mp4")) as movie:
        assert not movie.streams.audio
    assert np.abs(sound(folder / "bad_silence.mp4")[2]).max() == 0
    with pytest.raises(av.error.FFmpegError):
        av.open(str(folder / "bad_truncated.mp4"))
    still = pictures(folder / "bad_near_still.mp4")[1]
    assert np.abs(still[5].astype(int) - still[-1]).mean() < 2  # what the encoder changes, no more


def test_same_seed_same_bytes(demo: Demo, tmp_path: Path) -> None:
    folder, clips = demo
    for k in (11, 15):
        again = render_scene(SCENES[k], tmp_path, (0, k))
        assert again == clips[again.file]
        assert (tmp_path / again.file).read_bytes() == (folder / again.file).read_bytes()
    other = render_scene(SCENES[15], tmp_path, (1, 15))
    assert other.mouth != clips[other.file].mouth
    assert (tmp_path / other.file).read_bytes() != (folder / other.file).read_bytes()


def test_mismatches_name_file_and_both_verdicts(demo: Demo) -> None:
    _, clips = demo
    right = {c.file: (c.status, c.reasons[0] if c.reasons else "") for c in clips.values()}
    assert mismatches(clips.values(), right) == []
    wrong = dict(right)
    wrong["bad_blurred.mp4"] = ("accepted", "")
    wrong["good_vga_30.mp4"] = ("rejected", "blurry")
    del wrong["bad_silence.mp4"]
    assert mismatches(clips.values(), wrong) == [
        "good_vga_30.mp4: expected accepted, got rejected as blurry",
        "bad_blurred.mp4: expected rejected as blurry, got accepted",
        "bad_silence.mp4: expected rejected as silent_audio, but the run says nothing about it",
    ]
