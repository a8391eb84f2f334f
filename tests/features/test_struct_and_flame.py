from __future__ import annotations

import numpy as np
import pytest
from made_clip import face_points, make_clip
from scipy.spatial.transform import Rotation

from dualforce_model.errors import BadInput, Rejected
from dualforce_model.features import flame, head, struct_latents
from dualforce_model.features.flame import FlameConfig
from dualforce_model.features.struct_latents import OFFSETS, ROTATION, SCALE, TRANSLATION, StructLatentsConfig

SIZE = 512


def posed(count, seed=0):
    """Random poses and faces: landmarks [T,478,3] and what they are made of."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(0, 0.3, (count, 3))).as_matrix()
    scale, translation = rng.uniform(0.3, 1.2, count), rng.uniform(-0.3, 0.3, (count, 2))
    offsets = rng.normal(0, 0.03, (count, 21, 3))
    points = np.stack(
        [
            face_points(*pose, SIZE, o)
            for pose, o in zip(zip(rotation, scale, translation, strict=True), offsets, strict=True)
        ]
    )
    return points, rotation, scale, translation, offsets


def test_pose_and_offsets_are_recovered():
    points, rotation, scale, translation, offsets = posed(20)
    track = head.track_head(points, np.ones(20, bool), SIZE)
    np.testing.assert_allclose(track.rotation, rotation, atol=1e-5)
    np.testing.assert_allclose(track.scale, scale, rtol=1e-5)
    np.testing.assert_allclose(track.translation, translation, atol=1e-5)
    struct = struct_latents.pack(track)
    np.testing.assert_allclose(struct[:, OFFSETS].reshape(-1, 21, 3), offsets, atol=1e-4)


def test_layout_is_the_published_one():
    used = [*range(72)[ROTATION], *range(72)[TRANSLATION], *range(72)[SCALE], *range(72)[OFFSETS]]
    assert used == list(range(72))
    points = face_points(np.eye(3), 0.5, (0.25, -0.125), SIZE)[None]
    struct = struct_latents.pack(head.track_head(points, np.ones(1, bool), SIZE))[0]
    np.testing.assert_allclose(struct[:9], [1, 0, 0, 0, 1, 0, 0.25, -0.125, 0.5], atol=1e-5)
    np.testing.assert_allclose(struct[9:], 0, atol=1e-5)


def test_struct_turns_back_into_the_keypoints():
    points, *_ = posed(10, seed=3)
    track = head.track_head(points, np.ones(10, bool), SIZE)
    np.testing.assert_allclose(
        struct_latents.keypoints_of(struct_latents.pack(track), SIZE), points[:, head.KEYPOINTS], atol=0.01
    )


def test_real_clips_turn_back_into_the_keypoints(good_clips):
    for clip in good_clips.values():
        made = struct_latents.extract(clip, StructLatentsConfig())
        assert made["struct"].shape == (clip.frame_count, 72)
        assert made["struct"].dtype == np.float32
        valid = made["valid"]
        assert valid.mean() > 0.95
        back = struct_latents.keypoints_of(made["struct"], clip.info["size"])
        there = clip.read_landmarks()["landmarks"][:, head.KEYPOINTS]
        assert np.abs(back - there)[valid][..., :2].max() < 0.05  # pixels
        rotation = struct_latents.rotation_of(made["struct"])
        np.testing.assert_allclose(
            rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-6
        )
        turned = np.degrees(np.arccos(rotation[:, 2, 2]))
        assert np.median(turned) < 25  # they look into the camera
        assert np.abs(made["struct"][:, OFFSETS]).max() < 0.5  # half a decimetre off the canonical face


def test_mouth_opening_follows_the_lips(may):
    """The struct latent's lips and FLAME's jaw say the same as the pixels between the lips."""
    points = may.read_landmarks()["landmarks"]
    gap = np.linalg.norm(points[:, 13, :2] - points[:, 14, :2], axis=1)
    jaw = flame.extract(may, FlameConfig())["flame"][:, flame.JAW_OPENING]
    assert np.corrcoef(gap, jaw)[0, 1] > 0.98
    assert 0 <= jaw.min() < 0.03
    assert 0.05 < jaw.max() < 0.5


def test_six_numbers_need_not_be_orthonormal():
    struct = np.zeros((1, 72), np.float32)
    struct[0, ROTATION] = [2, 0, 0, 1, 0.5, 0]
    np.testing.assert_allclose(struct_latents.rotation_of(struct)[0], np.eye(3), atol=1e-6)


def test_frames_without_a_face_hold_and_are_invalid():
    points, *_ = posed(6)
    valid = np.array([False, True, False, False, True, False])
    points[~valid] = 0
    track = head.track_head(points, valid, SIZE)
    struct = struct_latents.pack(track)
    assert np.array_equal(track.valid, valid)
    for frame, source in enumerate([1, 1, 1, 1, 4, 4]):
        assert np.array_equal(struct[frame], struct[source])
    assert np.isfinite(struct).all()


def test_no_face_at_all_is_rejected(tmp_path):
    clip = make_clip(tmp_path, "x", np.zeros((5, 32, 32, 3), np.uint8), valid=np.zeros(5, bool))
    for extractor, config in ((struct_latents, StructLatentsConfig()), (flame, FlameConfig())):
        with pytest.raises(Rejected) as caught:
            extractor.extract(clip, config)
        assert caught.value.reason == "no_landmarks"


@pytest.mark.parametrize("damage", ["short", "nan"])
def test_bad_landmarks_are_named(tmp_path, damage):
    landmarks = np.ones((5, 478, 3), np.float32)
    if damage == "nan":
        landmarks[2, 7] = np.nan
    clip = make_clip(
        tmp_path, "x", np.zeros((5, 32, 32, 3), np.uint8), landmarks=landmarks[: 4 if damage == "short" else 5]
    )
    with pytest.raises(BadInput) as caught:
        struct_latents.extract(clip, StructLatentsConfig())
    assert caught.value.reason == ("landmark_length" if damage == "short" else "landmarks_not_finite")


def test_flame_measures_pose_jaw_and_camera_and_says_what_it_does_not(tmp_path):
    yaw = Rotation.from_euler("y", 20, degrees=True).as_matrix()  # our y is down: the nose turns to the left
    up = Rotation.from_euler("x", 10, degrees=True).as_matrix()  # chin towards the camera: looking up
    landmarks = np.stack([face_points(r, 0.6, (0.2, -0.1), 64) for r in (np.eye(3), yaw, up)])
    clip = make_clip(
        tmp_path, "x", np.zeros((3, 64, 64, 3), np.uint8), landmarks=landmarks, valid=np.array([True, True, False])
    )
    made = flame.extract(clip, FlameConfig())
    assert made["flame"].shape == made["valid"].shape == (3, 159)
    assert made["flame"].dtype == np.float32
    assert made["valid"].dtype == bool
    measured = [150, 151, 152, 153, 156, 157, 158]
    assert np.flatnonzero(made["valid"][0]).tolist() == measured
    assert not made["valid"][2].any()
    rest = np.setdiff1d(np.arange(159), measured)
    assert not made["flame"][:, rest].any()
    np.testing.assert_allclose(made["flame"][0, flame.POSE], 0, atol=1e-4)
    np.testing.assert_allclose(made["flame"][1, flame.POSE], [0, np.radians(-20), 0], atol=1e-4)
    # camera: scale * (metres + t) is the head's origin, y up
    scale, tx, ty = made["flame"][0, flame.CAMERA]
    np.testing.assert_allclose([scale, scale * tx, scale * ty], [6.0, 0.2, 0.1], atol=1e-4)


def test_jaw_opens_with_the_lower_lip():
    shape = np.repeat(head.KEYPOINT_SHAPE[None], 4, 0).copy()
    lower, upper = head.KEYPOINT_NAMES.index("lower_lip_inner"), head.KEYPOINT_NAMES.index("upper_lip_inner")
    shape[:, lower, 1] = shape[:, upper, 1] + np.array([-0.02, 0, 0.1, 0.3])
    opening = flame.jaw_opening(shape)
    assert opening[:2].tolist() == [0, 0]
    assert 0.09 < opening[2] < 0.12
    assert 0.28 < opening[3] < 0.36
