"""What is written comes back: every sample, every frame, the same bytes each time."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dualforce_model.media import GridReader, VideoWriter, probe, read_audio, write_video


@pytest.fixture
def pictures() -> list[np.ndarray]:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    base = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], np.uint8(128)), axis=2)
    return [np.ascontiguousarray(np.roll(base, 2 * k, axis=1)) for k in range(50)]


@pytest.fixture
def sound() -> np.ndarray:
    return (np.random.default_rng(0).integers(-32768, 32767, 50 * 640) / 32768).astype(np.float32)


def test_flac_keeps_every_sample_and_the_colours_stay(tmp_path, pictures, sound):
    path = tmp_path / 'name "with" everything %d:\n.mp4'
    assert write_video(path, iter(pictures), sound) == 50
    info = probe(path)
    assert (info.fps_mean, info.video_start_s, info.frames_estimate) == (25, 0, 50)
    assert (info.audio.codec, info.audio.rate, info.audio.channels) == ("flac", 16_000, 1)
    back, covered = read_audio(path, 0.0, len(sound))
    assert covered == 1
    assert np.array_equal(back, sound)
    shown = [frame.picture.rgb() for frame in GridReader(path)]
    assert len(shown) == 50
    assert np.abs(np.array(shown, float) - np.array(pictures, float)).mean() < 4


def test_aac_for_every_player(tmp_path, pictures, sound):
    write_video(tmp_path / "a.mp4", pictures, sound, audio_codec="aac")
    audio = probe(tmp_path / "a.mp4").audio
    assert audio.codec == "aac"
    assert audio.duration_s == pytest.approx(2.0, abs=0.1)


def test_no_sound_track_without_sound(tmp_path, pictures):
    write_video(tmp_path / "a.mp4", pictures, None)
    assert probe(tmp_path / "a.mp4").audio is None


def test_same_input_same_bytes(tmp_path, pictures, sound):
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", pictures, sound)
    assert len({hashlib.sha256((tmp_path / f"{name}.mp4").read_bytes()).hexdigest() for name in "ab"}) == 1


def test_what_can_not_be_written_is_said(tmp_path, pictures):
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "a.mp4", [np.zeros((63, 64, 3), np.uint8)], None)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "a.mp4", [], None)
    with pytest.raises(ValueError, match="expected RGB uint8"):
        write_video(tmp_path / "a.mp4", [pictures[0], pictures[1][:32]], None)


def test_planes_that_are_converted_already_show_the_same_colours(tmp_path, pictures):
    import cv2

    write_video(tmp_path / "rgb.mp4", pictures, None)
    with VideoWriter(tmp_path / "i420.mp4", (64, 64)) as writer:
        for picture in pictures:
            writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420))
    one, other = ([f.picture.rgb() for f in GridReader(tmp_path / f"{name}.mp4")] for name in ("rgb", "i420"))
    assert np.abs(np.array(one, float) - np.array(other, float)).mean() < 1.5
