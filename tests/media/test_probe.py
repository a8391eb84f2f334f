"""What a file says about itself, and every way in which it can be none."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import pytest
from movies import even_times, ffmpeg, flashes

from dualforce_model.errors import BadInput
from dualforce_model.media import GridReader, probe

GOOD = "good_hdtf_may_512_25.mp4"


def reason(path: Path) -> str:
    """Probe, and if that finds nothing, read to the end."""

    def use() -> None:
        probe(path)
        for _ in GridReader(path):
            pass

    with pytest.raises(BadInput) as caught:
        use()
    assert path.name in str(caught.value) or repr(path.name) in str(caught.value)
    return caught.value.reason


def test_facts_of_real_files(shared_data):
    retalk = probe(shared_data / "clips" / "good_retalk1_700_30.mp4")
    assert retalk.variable_fps
    assert retalk.fps_declared == 30
    assert retalk.fps_mean == pytest.approx(22.13, abs=0.01)
    phone = probe(shared_data / "clips" / "good_latentsync_1080x1920_hevc.mp4")
    assert (phone.width, phone.height, phone.video_codec, phone.variable_fps) == (1080, 1920, "hevc", False)
    mute = probe(shared_data / "clips" / "noaudio_echomimic_a_512_24.mp4")
    assert mute.audio is None
    assert mute.fps_mean == 24


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotation_tag_turns_the_size(tmp_path, rotation):
    flashes(tmp_path / "turned.mp4", even_times(Fraction(25)), Fraction(25), rotation=rotation)
    info = probe(tmp_path / "turned.mp4")
    assert (info.rotation, info.width, info.height) == (rotation, 128, 96)


def test_wide_pixels_are_counted_as_shown(tmp_path, shared_data):
    ffmpeg("-i", shared_data / "clips" / GOOD, "-t", 1, "-vf", "scale=410:412,setsar=4/3", tmp_path / "wide.mp4")
    assert (probe(tmp_path / "wide.mp4").width, probe(tmp_path / "wide.mp4").height) == (547, 412)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["index last", "index first", "fragments", "mkv", "avi"])
def test_a_cut_off_file_is_truncated(tmp_path, shared_data, kind, share):
    source, whole = shared_data / "clips" / GOOD, tmp_path / f"whole.{kind if kind in ('mkv', 'avi') else 'mp4'}"
    options = {
        "index last": ["-c", "copy"],
        "index first": ["-c", "copy", "-movflags", "+faststart"],
        "fragments": ["-c", "copy", "-movflags", "+frag_keyframe+empty_moov"],
        "mkv": ["-c", "copy"],
        "avi": ["-c:v", "mpeg4", "-an"],
    }[kind]
    ffmpeg("-i", source, *options, whole)
    assert probe(whole).frames_estimate in (125, 126)
    data = whole.read_bytes()
    cut = whole.with_stem("cut")
    cut.write_bytes(data[: int(len(data) * share)])
    assert reason(cut) in ({"truncated", "not_a_video"} if share < 0.1 else {"truncated"})


def test_less_video_than_declared_is_truncated(tmp_path, shared_data):
    whole = tmp_path / "whole.flv"  # a container that does not know its own size in bytes
    ffmpeg("-i", shared_data / "clips" / GOOD, "-c:a", "aac", "-ar", 44100, whole)
    (tmp_path / "cut.flv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert reason(tmp_path / "cut.flv") == "truncated"


def test_what_is_no_video(tmp_path, shared_data):
    good = shared_data / "clips" / GOOD
    contents = {
        "zero.mp4": (b"", "empty_file"),
        "text.mp4": (b"hello world\n" * 50, "not_a_video"),
        "noise.mp4": (random.Random(0).randbytes(50_000), "not_a_video"),
        "nul.mp4": (bytes(50_000), "not_a_video"),
        "picture.mp4": ((shared_data / "images" / "lp_d12.jpg").read_bytes(), "not_a_video"),
        # scripts that make a decoder open other files
        "script.mp4": (f"ffconcat version 1.0\nfile '{good}'\n".encode(), "not_a_video"),
        "playlist.mp4": (f"#EXTM3U\n#EXTINF:5,\n{good}\n#EXT-X-ENDLIST\n".encode(), "not_a_video"),
    }
    for name, (data, expected) in contents.items():
        (tmp_path / name).write_bytes(data)
        assert reason(tmp_path / name) == expected, name
    ffmpeg("-i", good, "-vn", "-c:a", "copy", tmp_path / "sound.mp4")
    assert reason(tmp_path / "sound.mp4") == "no_video_stream"
    assert reason(tmp_path / "missing.mp4") == "unreadable"
    assert reason(tmp_path) == "unreadable"
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    assert reason(tmp_path / "loop.mp4") == "symlink_loop"


@pytest.mark.parametrize(
    "name", ["with space.mp4", 'it\'s "quoted".mp4', "🎬 ünï.mp4", "new\nline.mp4", "pipe:1 %d.mp4", "-rf.mp4"]
)
def test_any_name_will_do(tmp_path, shared_data, name):
    path = tmp_path / name
    path.write_bytes((shared_data / "clips" / "bad_noface_7frames_2fps.mp4").read_bytes())
    assert probe(path).frames_estimate == 7
    assert sum(1 for _ in GridReader(path)) == 88
