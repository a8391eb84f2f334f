"""Clips cut at the list's times and crops, to the frame and the pixel, and handed on without an encoding in between."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dualforce_model.download.cut import cut_of, square_of
from dualforce_model.download.listed import Box, ListedClip, Span
from dualforce_model.errors import BadInput
from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.media import Clip, GridReader, probe, read_audio, write_video
from dualforce_model.media.cut import Cut
from dualforce_model.media.piece import PieceReader
from dualforce_model.timeline import SAMPLES_PER_FRAME


def number(picture):
    """The number that `counting` drew: bits as black and white columns."""
    columns = picture[picture.shape[0] // 2].mean(axis=1).reshape(8, -1).mean(axis=1) > 128
    return int(sum(int(bit) << n for n, bit in enumerate(columns)))


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    """A file per rate whose every frame shows its own number (mod 256)."""
    made = {}

    def make(fps, frames=200):
        if fps not in made:
            path = tmp_path_factory.mktemp("counting") / f"{fps}.mp4"
            bits = np.arange(8)
            columns = (((np.arange(frames)[:, None] >> bits) & 1) * 255).astype(np.uint8)
            pictures = (np.broadcast_to(np.repeat(row, 16)[None, :, None], (64, 128, 3)).copy() for row in columns)
            write_video(path, pictures, None, fps=fps)
            made[fps] = path
        return made[fps]

    return make


def shown(path, cut):
    return [number(frame.picture.rgb()) for frame in PieceReader(path, cut)]


@pytest.mark.parametrize(("start", "end"), [(0, 1), (2, 3), (3.52, 4.2), (7, 8)])
def test_seconds_begin_and_end_with_the_very_frame(counting, start, end):
    path = counting(25)
    cut = cut_of(ListedClip("a", "p", Span(start, end)), probe(path))
    assert shown(path, cut) == list(range(round(start * 25), round(end * 25)))


@pytest.mark.parametrize("fps", [24, 25, 30, 50])
def test_frame_numbers_begin_and_end_with_the_very_frame_at_any_rate(counting, fps):
    path = counting(fps)
    first, last = 101, 160
    cut = cut_of(ListedClip("a", "p", Span(first / fps, (last + 1) / fps, frames=True)), probe(path))
    found = shown(path, cut)
    assert (
        (found[0], found[-1]) == (first, last) if fps <= 25 else (found[0] == first and last - 1 <= found[-1] <= last)
    )
    assert len(found) == int((last + 1 - first) / fps * 25 + 0.5)
    assert found == sorted(found)


def test_other_rates_than_the_list_says_keep_the_instants(counting):
    # the list was made at 25 fps, frames 50..99 = 2 to 4 s; the file that came has 50
    path = counting(50)
    found = shown(path, cut_of(ListedClip("a", "p", Span(2.0, 4.0, frames=True)), probe(path)))
    assert found == list(range(100, 200, 2))


REAL = (
    "good_hdtf_aoc_512_25",
    "good_lp_s18_1280x720_30",
    "good_latentsync_1080x1920_hevc",
    "noaudio_echomimic_a_512_24",
    "good_retalk1_700_30",
)


@pytest.mark.parametrize("name", REAL)
def test_a_piece_of_a_real_file_is_that_part_of_the_whole(shared_data, name):
    path = shared_data / "clips" / f"{name}.mp4"
    reader = GridReader(path)
    whole = [frame.picture.small(64) for frame in reader]
    for first, last in ((0, 6), (37, 60), (len(whole) - 9, len(whole))):
        piece = PieceReader(path, Cut(reader.origin_s + first / 25, reader.origin_s + last / 25))
        found = [(frame.index, frame.picture.small(64)) for frame in piece]
        assert [index for index, _ in found] == list(range(last - first))
        assert all(np.array_equal(picture, whole[first + index]) for index, picture in found)
        assert piece.origin_s == reader.origin_s + first / 25
        assert (piece.width, piece.height) == (reader.width, reader.height)


def test_a_piece_late_in_a_file_is_reached_without_decoding_all_before(counting):
    piece = PieceReader(counting(25), Cut(7.0, 7.4))
    assert len(list(piece)) == 10
    assert piece.packets < 70  # from the key frame before


INFO = {"width": 1920, "height": 1080}


@pytest.fixture(scope="module")
def info(shared_data):
    return replace(probe(shared_data / "clips" / "good_hdtf_aoc_512_25.mp4"), width=1920, height=1080)


@pytest.mark.parametrize(
    ("box", "square"),
    [
        (Box((396, 32, 861, 497), "pixels", 1080), (396, 32, 465)),  # as listed
        (Box((396, 32, 861, 497), "pixels", 720), (594, 48, 698)),  # listed at 720, came at 1080
        (Box((396, 32, 861, 497), "pixels", 2160), (198, 16, 232)),
        (Box((0.18, 0.0, 0.795, 0.9569), "share"), (419, 0, 1033)),  # 1181 wide, 1033 high: the shorter side, centred
        (Box((0.25, 0.25, 0.75, 0.75), "share"), (690, 270, 540)),
    ],
)
def test_crops_are_scaled_to_the_picture_that_came(info, box, square):
    found = square_of("a", box, info)
    assert np.abs(np.subtract(found, square)).max() <= 1
    assert found[2] == square[2]


def test_another_version_of_the_video_is_noticed(info):
    for span in (Span(5, 20), Span(9, 9.5), Span(0, info.duration_s + 1.5)):
        with pytest.raises(BadInput, match="another version") as caught:
            cut_of(ListedClip("a", "p", span), info)
        assert caught.value.reason == "listed_time_missing"
    with pytest.raises(BadInput, match="another version") as caught:
        square_of("a", Box((1900, 900, 2400, 1400), "pixels", 1080), info)
    assert caught.value.reason == "listed_crop_outside"
    # lists round to whole seconds: that much is forgiven
    assert cut_of(ListedClip("a", "p", Span(6, 8.5)), info).end_s == pytest.approx(info.video_start_s + info.duration_s)
    assert cut_of(ListedClip("a", "p"), info) == Cut(info.video_start_s, info.video_start_s + info.duration_s)


def test_times_count_from_the_file_and_frames_from_the_first_picture(info):
    late = replace(info, video_start_s=1.7, audio=replace(info.audio, start_s=0.0))
    assert cut_of(ListedClip("a", "p", Span(3, 5)), late).start_s == 3
    assert cut_of(ListedClip("a", "p", Span(3, 5, frames=True)), late).start_s == 4.7
    assert cut_of(ListedClip("a", "p", Span(1, 5)), late).start_s == 1.7  # no picture before


def test_the_face_crop_reads_the_piece_and_shows_the_lists_square(shared_data, tmp_path):
    path = shared_data / "clips" / "good_lp_s18_1280x720_30.mp4"
    config, size = FaceCropConfig(size=128), 128
    origin = probe(path).video_start_s
    (whole,) = crop_source(path, "whole", "i", tmp_path, config)
    left, top, side, _ = whole["box"]
    square = (left + 10, top + 6, side - 20)
    piece = Cut(origin + 2, origin + 5, square)
    (made,) = crop_source(path, "listed", "i", tmp_path, config, piece)
    assert made["box"] == [*square[:2], square[2], square[2]]
    assert made["frames"] == 75
    assert made["start_s"] == pytest.approx(origin + 2)
    assert list(made["source"]["cut"]["square"]) == list(square)
    # the same instants of the whole file, cropped there, and its very samples of sound
    clip, reader = Clip(tmp_path, made["clip_id"]), GridReader(path)
    x, y, s = square
    for picture, frame in zip(clip.frames(), list(reader)[50:125:25], strict=False):
        import cv2

        wanted = cv2.resize(frame.picture.rgb()[y : y + s, x : x + s], (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(picture.astype(int) - wanted.astype(int)).mean() < 4
        break
    sound, _ = read_audio(path, origin + 2, 75 * SAMPLES_PER_FRAME)
    assert np.abs(clip.audio() - sound).max() < 1e-4
    # or the square that this face would get from any source
    (own,) = crop_source(path, "own", "i", tmp_path, config, replace(piece, own_framing=True))
    assert np.abs(np.subtract(own["box"], whole["box"])).max() < 0.2 * side


def test_only_the_face_in_the_lists_square_counts(shared_data, tmp_path):
    path = shared_data / "clips" / "bad_twofaces_ovi_1344x704_24.mp4"
    config = FaceCropConfig(size=128)
    both = crop_source(path, "both", "i", tmp_path, config)
    assert max(clip["faces"]["faces_max"] for clip in both) == 2
    origin = probe(path).video_start_s
    for clip in {clip["track"]: clip for clip in both}.values():
        left, top, side, _ = clip["box"]
        middle = (left + side // 4, top + side // 4, side // 2)
        made = crop_source(path, "one", "i", tmp_path, config, Cut(origin, origin + 2, middle, own_framing=True))
        assert [one["faces"]["faces_max"] for one in made] == [1]
        assert abs(made[0]["box"][0] - left) < side / 2
    json.dumps(both)
