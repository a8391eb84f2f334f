"""Frames and sound come out at the instants at which they went in, whatever carried them."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from movies import even_times, ffmpeg, flashes, seen_and_heard, uneven_times

from dualforce_model.errors import BadInput
from dualforce_model.media import GridReader, read_audio

GRID_MS = 20.5  # half a frame, and half a millisecond for a container's coarse clock
SOUND_MS = 2


def assert_together(path, truth):
    seen, heard, reader = seen_and_heard(path)
    assert len(seen) == len(heard) == len(truth)
    assert np.abs(seen - truth).max() * 1000 <= GRID_MS
    assert np.abs(heard - truth).max() * 1000 <= SOUND_MS
    return reader


@pytest.mark.parametrize("fps", ["5", "10", "24000/1001", "24", "25", "30000/1001", "30", "50", "60"])
def test_constant_rates(tmp_path, fps):
    rate = Fraction(fps)
    truth = flashes(tmp_path / "a.mp4", even_times(rate), rate)
    reader = assert_together(tmp_path / "a.mp4", truth)
    assert reader.decoded == len(even_times(rate))
    assert abs(sum(1 for _ in GridReader(tmp_path / "a.mp4")) - 125) <= 1


def test_variable_rate(tmp_path):
    truth = flashes(tmp_path / "a.mp4", uneven_times(), Fraction(30))
    assert_together(tmp_path / "a.mp4", truth)


def test_video_that_starts_1_7_s_after_the_sound(tmp_path):
    truth = flashes(tmp_path / "a.mp4", even_times(Fraction(30), Fraction(17, 10)), Fraction(30))
    reader = assert_together(tmp_path / "a.mp4", np.array(truth) - 1.7)
    assert reader.origin_s == pytest.approx(1.7)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("mkv", "libmp3lame")])
def test_sound_that_starts_after_the_video(tmp_path, container, codec):
    truth = flashes(tmp_path / "whole.mp4", even_times(Fraction(25)), Fraction(25))
    late = tmp_path / f"late.{container}"
    ffmpeg("-i", tmp_path / "whole.mp4", "-af", "atrim=start=0.9", "-c:v", "copy", "-c:a", codec, late)
    seen, heard, _ = seen_and_heard(late)
    assert np.abs(seen - truth).max() * 1000 <= GRID_MS
    assert np.abs(heard - truth[1:]).max() * 1000 <= SOUND_MS  # the first beep is cut away, the others stay
    silence, covered = read_audio(late, 0.0, 16_000)
    assert not silence[:14_000].any()
    assert covered == pytest.approx(0.1, abs=0.03)


CONTAINERS = {
    "a.mkv": ["-c:v", "libx264", "-bf", "3", "-c:a", "flac"],
    "a.mov": ["-c:v", "mpeg4", "-c:a", "pcm_s16le"],
    "a.mpg": ["-c:v", "mpeg1video", "-c:a", "mp2"],
    "a.ts": ["-c:v", "mpeg2video", "-bf", "2", "-c:a", "aac"],
    "a.flv": ["-c:v", "libx264", "-c:a", "aac"],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hvc1", "-c:a", "ac3"],
    "fragments.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov", "-c:a", "aac"],
    "ten_bits.mkv": ["-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-c:a", "aac"],
    "a.webm": ["-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"],
    "a.ogv": ["-c:v", "libtheora", "-c:a", "libvorbis"],
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_and_codecs(tmp_path, name):
    truth = flashes(tmp_path / "whole.mp4", even_times(Fraction(25)), Fraction(25), rate=48_000)
    ffmpeg("-i", tmp_path / "whole.mp4", *CONTAINERS[name], tmp_path / name)
    assert not assert_together(tmp_path / name, truth).errors


def test_sound_from_the_middle_equals_the_whole(tmp_path):
    flashes(tmp_path / "a.mp4", even_times(Fraction(25)), Fraction(25))
    whole, _ = read_audio(tmp_path / "a.mp4", 0.0, 5 * 16_000)
    middle, covered = read_audio(tmp_path / "a.mp4", 2.2, 2 * 16_000)
    assert covered == 1
    # another start of the resampler moves the sampling instants by less than one sample
    assert np.argmax(np.abs(middle) > 0.2) == pytest.approx(np.argmax(np.abs(whole[35_200:]) > 0.2), abs=1)


def test_rotated_pictures_stand_upright(tmp_path, shared_data):
    upright = shared_data / "clips" / "good_hdtf_may_512_25.mp4"
    ffmpeg("-display_rotation:v:0", 90, "-i", upright, "-c", "copy", "-t", 1, tmp_path / "lying.mp4")
    lying = next(iter(GridReader(tmp_path / "lying.mp4"))).picture.rgb()
    picture = next(iter(GridReader(upright))).picture.rgb()
    assert np.array_equal(lying, np.rot90(picture))


def test_parts_of_a_picture_equal_the_whole(shared_data):
    for name in ("good_latentsync_1080x1920_hevc.mp4", "good_lp_s18_1280x720_30.mp4"):
        picture = next(iter(GridReader(shared_data / "clips" / name))).picture
        whole = picture.rgb()
        for left, top, side in ((101, 77, 301), (-30, 20, 200), (whole.shape[1] - 99, 11, 300), (-500, -500, 100)):
            part, x, y = picture.square(left, top, side)
            assert np.array_equal(part, whole[y : y + part.shape[0], x : x + part.shape[1]])
            needed = whole[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
            got = part[max(0, top - y) : max(0, top - y + side), max(0, left - x) : max(0, left - x + side)]
            assert np.array_equal(got, needed)


def test_a_few_bad_packets_are_counted_and_do_not_end_the_run(tmp_path, shared_data):
    data = bytearray((shared_data / "clips" / "good_hdtf_aoc_512_25.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = random.Random(1).randbytes(20_000)
    (tmp_path / "bad.mp4").write_bytes(data)
    reader = GridReader(tmp_path / "bad.mp4")
    assert sum(1 for _ in reader) == 200
    assert 1 <= len(reader.errors) < 20
    assert all(80 < at < 120 for at in reader.errors)


def test_a_video_that_is_mostly_damaged_is_refused(tmp_path, shared_data):
    data = bytearray((shared_data / "clips" / "good_hdtf_may_512_25.mp4").read_bytes())
    rng = random.Random(1)
    for _ in range(3000):
        data[rng.randrange(20_000, 340_000)] = rng.randrange(256)
    (tmp_path / "bad.mp4").write_bytes(data)
    with pytest.raises(BadInput) as caught:
        list(GridReader(tmp_path / "bad.mp4"))
    assert caught.value.reason == "corrupt"


def test_a_still_source_frame_is_not_fresh(shared_data):
    frames = list(GridReader(shared_data / "clips" / "bad_noface_7frames_2fps.mp4"))
    assert sum(frame.fresh for frame in frames) == 7
    reader = GridReader(shared_data / "clips" / "bad_noface_7frames_2fps.mp4")
    assert sum(1 for _ in reader) == 88
    assert [seconds for _, seconds in reader.gaps] == [0.5] * 6
