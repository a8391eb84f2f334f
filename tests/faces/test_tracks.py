"""Shots and tracks: what belongs together over time."""

from __future__ import annotations

import numpy as np
import pytest

from dualforce_model.faces import FaceCropConfig
from dualforce_model.faces.detect import Face, cut
from dualforce_model.faces.plan import PATIENCE, company, square
from dualforce_model.faces.scan import Scan, scan
from dualforce_model.faces.tracks import Track, link
from dualforce_model.media import GridReader


def looks_of(*paths):
    """Looks every 5 frames at faces that are where `paths` (frame -> (x, y, side) or None) say."""
    out = []
    for at in range(0, 100, 5):
        places = [path(at) for path in paths]
        human = True if at % 25 == 0 else None
        out.append((at, [Face(*place, 0.9, human) for place in places if place]))
    return out


def test_cuts_of_a_real_file(shared_data):
    found = scan(GridReader(shared_data / "clips" / "bad_cartoon_cuts_640x360_24.mp4"), FaceCropConfig())
    assert found.cuts == [150, 247]  # frames 144 and 237 at 24 frames a second
    assert found.shots(1500) == [(0, 150), (150, 247), (247, 294)]


def test_long_shots_are_cut_evenly():
    assert Scan(frames=100, cuts=[40]).shots(25) == [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]


def test_two_people_who_move_are_two_tracks():
    walker = lambda at: (100 + at, 100, 80)  # noqa: E731
    sitter = lambda at: (400, 100, 60)  # noqa: E731
    tracks = link(looks_of(walker, sitter), PATIENCE, 4)
    assert [(len(t.at), round(t.side)) for t in tracks] == [(20, 80), (20, 60)]
    assert company(tracks[0], tracks, 0, 100) == (2, pytest.approx(0.96), 60)


def test_a_face_that_looks_away_for_a_second_stays_one_track():
    face = lambda at: None if 40 <= at < 60 else (100, 100, 80)  # noqa: E731
    assert [len(t.at) for t in link(looks_of(face), PATIENCE, 4)] == [16]


def test_what_is_never_human_is_no_track():
    looks = [(at, [Face(100, 100, 80, 0.9, False if at % 25 == 0 else None)]) for at in range(0, 100, 5)]
    assert link(looks, PATIENCE, 4) == []


def test_background_faces_are_not_company():
    track, small = Track([0, 99], [Face(0, 0, 100, 1)] * 2), Track([0, 99], [Face(300, 0, 20, 1)] * 2)
    assert company(track, [track, small], 0, 100) == (1, 0, 0)


def test_the_square_is_steady_and_holds_the_way_of_the_face():
    config = FaceCropConfig()
    still = Track([0, 5, 10], [Face(100, 100, 50, 1), Face(101, 99, 52, 1), Face(99, 101, 48, 1)])
    left, top, side = square(still, config)
    assert side == 100  # twice the face
    assert (left + side / 2, top + side / 2) == pytest.approx((100, 97.5), abs=1)
    wide = Track(list(range(0, 100, 5)), [Face(100 + 10 * k, 100, 50, 1) for k in range(20)])
    left, _, side = square(wide, config)
    assert left < 100 - 10
    assert left + side > 290 + 10


def test_cutting_moves_nothing_at_the_borders():
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    patch = cut(picture, -10, -10, 20, 20)
    assert np.array_equal(patch[10:, 10:], picture[:10, :10])
    assert (patch[:10, 10:] == picture[0, :10]).all()
    assert (patch[10:, :10] == picture[:10, :1]).all()
    assert not cut(picture, 500, 500, 20, 64).any()
    assert cut(picture, 5, 5, 10, 64).shape == (64, 64, 3)
