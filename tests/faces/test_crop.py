"""The real clips, cropped: where the face is, what a clip holds, that it is the source's own pictures and sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cropped import IDENTITY, crop, crop_all
from movies import ffmpeg

from dualforce_model.config import ConfigError, build
from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.faces.detect import cut
from dualforce_model.faces.mesh import ARRAYS
from dualforce_model.media import GridReader, read_audio, write_video
from dualforce_model.store import digest_file, intact, write_json
from dualforce_model.store.publish import TEMPORARY

SINGLE = (
    "good_hdtf_aoc_512_25",
    "good_hdtf_may_512_25",
    "good_latentsync_1080x1920_hevc",
    "good_lp_d10_512_30",
    "good_lp_s18_1280x720_30",
    "good_retalk1_700_30",
    "noaudio_echomimic_a_512_24",
    "silent_lp_d19_480_30",
)


@pytest.fixture(scope="module")
def outcomes(shared_data):
    return crop_all(shared_data / "clips")


@pytest.fixture
def may(shared_data) -> Path:
    return shared_data / "clips" / "good_hdtf_may_512_25.mp4"


def test_what_has_no_human_face_becomes_no_clip(outcomes):
    assert outcomes["bad_cartoon_cuts_640x360_24"].reason == "no_face"  # a goat, which detectors take for a face
    assert outcomes["bad_noface_7frames_2fps"].reason == "no_face"
    assert all(outcome.clips for name, outcome in outcomes.items() if not outcome.reason)


@pytest.mark.parametrize("name", SINGLE)
def test_one_person_one_clip(outcomes, name):
    (clip,) = outcomes[name].clips
    info, arrays = clip.info, clip.read_landmarks()
    assert info["faces"]["faces_max"] == 1
    assert info["faces"]["coverage"] == 1
    # the face fills about half of the crop and is not cut off
    points = arrays["landmarks"][arrays["valid"]][:, :, :2]
    share = (points.max(1) - points.min(1)).mean(1) / info["size"]
    assert 0.35 < np.median(share) < 0.7
    assert points.min() > 0
    assert points.max() < info["size"]


def test_a_clip_is_whole(outcomes):
    for clip in (c for outcome in outcomes.values() for c in outcome.clips):
        info = clip.info
        arrays = clip.read_landmarks()
        frames = info["frames"]
        assert sum(frame.shape == (512, 512, 3) for frame in clip.frames()) == frames
        assert clip.audio().shape == (frames * 640,)
        assert digest_file(clip.video) == info["video_sha256"]
        assert digest_file(clip.landmarks) == info["landmarks_sha256"]
        assert intact(clip.landmarks, IDENTITY)
        for name, (shape, dtype, _) in ARRAYS.items():
            assert arrays[name].shape == tuple(frames if n == "T" else n for n in shape)
            assert arrays[name].dtype == dtype
        assert not arrays["landmarks"][~arrays["valid"]].any()
        assert not list(clip.folder.glob(f"{TEMPORARY}*"))


def test_two_people_two_clips_that_tell_of_each_other(outcomes):
    clips = outcomes["bad_twofaces_ovi_1344x704_24"].clips
    assert [clip.clip_id[-4:] for clip in clips] == ["s0t0", "s0t1"]
    assert all(clip.info["faces"]["multi_face_share"] > 0.9 for clip in clips)
    left, right = (clip.info["box"][0] for clip in clips)
    assert abs(left - right) > 300


def test_small_faces_in_a_crowd_are_counted(outcomes):
    clips = outcomes["bad_crowd_1080p_25"].clips
    assert max(clip.info["faces"]["faces_max"] for clip in clips) >= 4


def test_the_variable_rate_clip_shows_the_right_frame_at_the_right_time(outcomes, shared_data):
    (clip,) = outcomes["good_retalk1_700_30"].clips
    source = shared_data / "clips" / "good_retalk1_700_30.mp4"
    info = clip.info
    assert info["frames"] == 153
    assert info["start_s"] == pytest.approx(0.033, abs=0.001)
    assert info["source"]["decoded_frames"] == 135
    left, top, side, _ = info["box"]
    for frame, shown in zip(GridReader(source), clip.frames(), strict=True):
        expected = cut(frame.picture.rgb(), left, top, side, 512)
        assert np.abs(shown.astype(float) - expected).mean() < 3  # what H.264 leaves
    sound, _ = read_audio(source, info["start_s"], 153 * 640)
    assert np.abs(clip.audio() - sound).max() <= 1 / 32768  # FLAC keeps 16 bits


def test_outside_the_source_its_border_goes_on_and_nothing_is_moved(outcomes):
    (clip,) = outcomes["silent_lp_d19_480_30"].clips
    left, top, side, _ = clip.info["box"]
    assert left < 0
    assert top + side > 480
    frame = next(clip.frames())
    scale = 512 / side
    inside_x = round(-left * scale)
    bottom = round((480 - top) * scale)
    outside = frame[: bottom - 4, : inside_x - 4].astype(float)
    assert outside.std(axis=1).max() < 4
    assert np.abs(outside.mean(1) - frame[: bottom - 4, inside_x + 1]).mean() < 4
    assert frame[bottom + 4 :, inside_x + 4 :].astype(float).std(axis=0).max() < 4
    assert frame[: bottom - 4, inside_x + 4 :].astype(float).std(axis=0).max() > 40
    share = 1 - (min(left + side, 480) - max(left, 0)) * (min(top + side, 480) - max(top, 0)) / side**2
    assert clip.info["faces"]["padding"] == pytest.approx(share)


def test_same_source_same_bytes_at_any_size(tmp_path, may):
    config = FaceCropConfig(size=128)
    first, second = (crop(may, tmp_path / name, config).clips[0] for name in "ab")
    for one, other in (
        (first.video, second.video),
        (first.landmarks, second.landmarks),
        (first.sidecar, second.sidecar),
    ):
        assert one.read_bytes() == other.read_bytes()
    assert next(first.frames()).shape == (128, 128, 3)
    points = first.read_landmarks()["landmarks"][:, :, :2]
    assert 0 < points.min() < points.max() < 128


def test_small_crops_have_the_landmarks_of_large_ones(tmp_path, may, outcomes):
    small = crop(may, tmp_path, FaceCropConfig(size=128)).clips[0].read_landmarks()
    large = outcomes["good_hdtf_may_512_25"].clips[0].read_landmarks()
    off = np.linalg.norm(small["landmarks"][:, :, :2] * 4 - large["landmarks"][:, :, :2], axis=2)
    assert off.mean() < 3  # of 512 pixels
    assert np.median(small["sharpness"]) == pytest.approx(np.median(large["sharpness"]), rel=0.05)


def test_long_shots_are_cut_into_parts_that_follow_each_other(tmp_path, may):
    clips = crop(may, tmp_path, FaceCropConfig(size=128, max_clip_s=2.0)).clips
    assert [clip.info["frames"] for clip in clips] == [42, 41, 42]
    starts = [clip.info["start_s"] for clip in clips]
    assert starts == pytest.approx([0, 42 / 25, 83 / 25])
    whole, _ = read_audio(may, 0.0, 125 * 640)
    together = np.concatenate([clip.audio() for clip in clips])
    spectra = np.fft.rfft([whole, together], axis=1)
    assert np.argmax(np.fft.irfft(spectra[0] * spectra[1].conj())) == 0  # no part is moved by a sample
    assert np.corrcoef(whole, together)[0, 1] > 0.98  # parts start between the samples of the whole


def test_a_clip_begins_and_ends_with_both_streams(tmp_path, may):
    ffmpeg("-i", may, "-af", "atrim=start=0.9:end=4", "-c:v", "copy", "-c:a", "aac", tmp_path / "part.mp4")
    (clip,) = crop(tmp_path / "part.mp4", tmp_path / "out", FaceCropConfig(size=128)).clips
    assert clip.info["start_s"] == pytest.approx(0.9, abs=0.06)
    assert clip.info["frames"] == pytest.approx(3.1 * 25, abs=3)
    assert clip.info["audio_coverage"] > 0.98


def test_the_source_is_not_touched_and_an_older_sidecar_ends_first(tmp_path, may):
    before = (digest_file(may), may.stat().st_mtime_ns)
    write_json(tmp_path / "x-s0t0.json", {"old": True})
    (sidecar,) = crop_source(may, "x", IDENTITY, tmp_path, FaceCropConfig(size=64))
    assert sidecar["clip_id"] == "x-s0t0"
    assert "old" not in (tmp_path / "x-s0t0.json").read_text()
    assert (digest_file(may), may.stat().st_mtime_ns) == before


def test_no_chatter_of_the_libraries(tmp_path, may):
    program = (
        "import sys; from pathlib import Path; from dualforce_model.faces import *;"
        f"crop_source(Path(sys.argv[1]), 'x', '{IDENTITY}', Path(sys.argv[2]), FaceCropConfig(size=64))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(may), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_knobs_are_checked():
    for wrong in ({"size": 100}, {"margin": 0.5}, {"detect_every": 0}, {"max_clip_s": 0.1}, {"backend": "haar"}):
        with pytest.raises(ConfigError):
            build(FaceCropConfig, wrong)


def test_a_full_disk_is_told_as_such_and_leaves_nothing_half_made(tmp_path, may):
    program = (
        "import resource, signal, sys; from pathlib import Path; from dualforce_model.faces import *;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY));"
        f"crop_source(Path(sys.argv[1]), 'x', '{IDENTITY}', Path(sys.argv[2]), FaceCropConfig())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(may), str(tmp_path)], capture_output=True, text=True)
    assert "OSError: [Errno 27] File too large" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


MEASURED = """
import sys
from pathlib import Path
from dualforce_model.faces import FaceCropConfig, crop, crop_source

publish, sizes = crop.write_json, []

def weighed(path, sidecar):
    publish(path, sidecar)
    sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) // 256)

crop.write_json = weighed
crop_source(Path(sys.argv[1]), "x", "0" * 32, Path(sys.argv[2]), FaceCropConfig(max_clip_s=6))
print(*sizes)
"""


def test_memory_does_not_grow_from_clip_to_clip(tmp_path, may):
    """One source of many clips: what a clip took is given back when it is finished."""
    ffmpeg("-stream_loop", 7, "-i", may, "-c", "copy", tmp_path / "long.mp4")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "long.mp4"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sizes = list(map(int, done.stdout.split()))  # MiB, after each clip
    assert len(sizes) >= 7
    assert max(sizes) < 600
    assert sizes[-1] - sizes[1] < 50  # a clip's frames alone are 100 MiB


def test_a_clip_begins_when_its_face_appears(tmp_path, may):
    """A slow fade-in is no cut; the first second shows nobody."""
    pictures = [frame.picture.rgb() for frame in GridReader(may)]
    light = np.clip((np.arange(len(pictures)) - 22) / 30, 0, 1)
    frames = [(picture * share).astype(np.uint8) for picture, share in zip(pictures, light, strict=True)]
    write_video(tmp_path / "fade.mp4", frames, None)
    (clip,) = crop(tmp_path / "fade.mp4", tmp_path / "out", FaceCropConfig(size=128)).clips
    assert 0.8 < clip.info["start_s"] < 2
    assert clip.info["faces"]["coverage"] > 0.95
