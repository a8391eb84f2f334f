from __future__ import annotations

import numpy as np
import pytest
from made_clip import face_points, make_clip
from scipy.spatial.transform import Rotation

from dualforce_model.config import ConfigError
from dualforce_model.errors import Rejected
from dualforce_model.features import codec, head, reference
from dualforce_model.features.reference import ReferenceConfig, choose


def track(degrees, valid=None):
    """A head track that turns to the side by so many degrees."""
    points = np.stack(
        [face_points(Rotation.from_euler("y", d, degrees=True).as_matrix(), 0.6, (0, 0), 64) for d in degrees]
    )
    return head.track_head(points, np.ones(len(points), bool) if valid is None else valid, 64)


def test_the_first_frame_and_the_sharpest_of_each_part():
    sharpness = np.zeros(31)
    sharpness[[0, 7, 12, 25]] = 9
    assert choose(track(np.zeros(31)), sharpness, 4).tolist() == [0, 7, 12, 25]


def test_frontal_comes_before_sharp():
    degrees = np.full(31, 30.0)
    degrees[[3, 4, 18, 29]] = [0, 4, 2, 1]
    sharpness = np.linspace(0, 1, 31)
    assert choose(track(degrees), sharpness, 4).tolist() == [0, 4, 18, 29]  # 4 degrees is as frontal as 0, and sharper


def test_frames_without_a_face_are_never_chosen():
    valid = np.zeros(31, bool)
    valid[[5, 6, 7, 20]] = True
    assert choose(track(np.zeros(31), valid), np.ones(31), 4).tolist() == [0, 5, 7, 20]
    with pytest.raises(Rejected) as caught:
        choose(track(np.zeros(31), valid), np.ones(31), 6)
    assert caught.value.reason == "few_faces"
    assert "4 frames" in str(caught.value)


def test_latents_are_those_of_the_named_frames(may):
    pictures = list(may.frames())
    made = reference.extract(may, ReferenceConfig(count=5))
    assert made["latents"].shape == (5, 16, 64, 64)
    assert made["latents"].dtype == np.float16
    assert made["frames"].dtype == np.int64
    frames = made["frames"].tolist()
    assert frames[0] == 0
    assert frames == sorted(set(frames))
    for part, frame in enumerate(frames[1:]):  # one in each quarter
        assert part * 31 - 1 <= frame <= part * 31 + 33
    for latent, frame in zip(made["latents"], frames, strict=True):
        assert np.array_equal(latent, codec.encode_still(pictures[frame]))


def test_one_reference_is_the_first_frame(tmp_path):
    clip = make_clip(tmp_path, "x", np.full((5, 32, 32, 3), 90, np.uint8))
    made = reference.extract(clip, ReferenceConfig(count=1))
    assert made["frames"].tolist() == [0]
    assert made["latents"].shape == (1, 16, 4, 4)
    with pytest.raises(ConfigError, match="count"):
        ReferenceConfig(count=0)
