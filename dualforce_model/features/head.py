"""The head in a picture: a fixed canonical shape, and where it stands in each frame (rotation, scale, translation).

Coordinates
    image      x right, y down, z away from the camera; the square clip spans -1 .. 1 in x and y, z in the same unit
    canonical  the same axes on a frontal head, decimetres, origin inside the head (that of MediaPipe's face model)
    pose       image = scale * R @ canonical + (tx, ty, 0), a weak perspective camera. The landmarks' z is only known
               up to a constant per frame, so the translation has no third component (LivePortrait's is always 0, too)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dualforce_model.errors import BadInput, Rejected

if TYPE_CHECKING:
    from dualforce_model.media import Clip

LANDMARKS = 478

# Canonical face model and Procrustes weights of MediaPipe's face geometry module (Apache-2.0, Google), in our axes and
# decimetres. Of its 33 weighted landmarks these 25 don't move with jaw and cheeks. Columns: landmark, weight, x, y, z.
_RIGID = np.array(
    [
        (4, 0.0709, 0.0000, 0.0463, -0.7587),
        (6, 0.0321, 0.0000, -0.2473, -0.5789),
        (10, 0.0084, 0.0000, -0.8262, -0.4482),
        (33, 0.0587, -0.4446, -0.2664, -0.3173),
        (54, 0.0077, -0.6279, -0.6615, -0.1426),
        (67, 0.0091, -0.3524, -0.8006, -0.3729),
        (117, 0.0098, -0.5259, -0.0946, -0.2974),
        (119, 0.0146, -0.3301, -0.0862, -0.3873),
        (121, 0.0186, -0.1821, -0.1468, -0.4224),
        (127, 0.0052, -0.7743, -0.2365, 0.2005),
        (129, 0.1206, -0.1786, 0.0978, -0.4850),
        (133, 0.0533, -0.1856, -0.2585, -0.3758),
        (143, 0.0148, -0.6408, -0.2236, -0.1561),
        (198, 0.0255, -0.1247, -0.0230, -0.5681),
        (263, 0.0587, 0.4446, -0.2664, -0.3173),
        (284, 0.0077, 0.6279, -0.6615, -0.1426),
        (297, 0.0091, 0.3524, -0.8006, -0.3729),
        (346, 0.0098, 0.5259, -0.0946, -0.2974),
        (348, 0.0146, 0.3301, -0.0862, -0.3873),
        (350, 0.0186, 0.1821, -0.1468, -0.4224),
        (356, 0.0052, 0.7743, -0.2365, 0.2005),
        (358, 0.1206, 0.1786, 0.0978, -0.4850),
        (362, 0.0533, 0.1856, -0.2585, -0.3758),
        (372, 0.0148, 0.6408, -0.2236, -0.1561),
        (420, 0.0255, 0.1247, -0.0230, -0.5681),
    ]
)
RIGID = _RIGID[:, 0].astype(int)
RIGID_WEIGHTS = _RIGID[:, 1] / _RIGID[:, 1].sum()
RIGID_SHAPE = _RIGID[:, 2:]

# The 21 keypoints of the struct latent, in its order (right and left are the person's own). Columns: name, landmark,
# x, y, z of the same canonical model; it has no irises, which start from the middle of their eye.
_KEYPOINTS = (
    ("mouth_right", 61, -0.2456, 0.4343, -0.4284),
    ("mouth_left", 291, 0.2456, 0.4343, -0.4284),
    ("upper_lip_inner", 13, 0.0000, 0.3994, -0.5219),
    ("lower_lip_inner", 14, 0.0000, 0.4542, -0.5405),
    ("upper_lip_outer", 0, 0.0000, 0.3406, -0.5980),
    ("lower_lip_outer", 17, 0.0000, 0.5365, -0.5535),
    ("upper_lip_inner_right", 81, -0.1024, 0.3990, -0.4927),
    ("upper_lip_inner_left", 311, 0.1024, 0.3990, -0.4927),
    ("lower_lip_inner_right", 178, -0.1099, 0.4459, -0.5121),
    ("lower_lip_inner_left", 402, 0.1099, 0.4459, -0.5121),
    ("chin", 152, 0.0000, 0.9403, -0.4264),
    ("right_lid_upper", 159, -0.3177, -0.2964, -0.3877),
    ("right_lid_lower", 145, -0.3177, -0.2294, -0.3776),
    ("left_lid_upper", 386, 0.3177, -0.2964, -0.3877),
    ("left_lid_lower", 374, 0.3177, -0.2294, -0.3776),
    ("right_iris", 468, -0.3164, -0.2627, -0.3646),
    ("left_iris", 473, 0.3164, -0.2627, -0.3646),
    ("right_brow_inner", 55, -0.1221, -0.4142, -0.5106),
    ("left_brow_inner", 285, 0.1221, -0.4142, -0.5106),
    ("right_brow_middle", 105, -0.3987, -0.5109, -0.4466),
    ("left_brow_middle", 334, 0.3987, -0.5109, -0.4466),
)
KEYPOINT_NAMES = tuple(row[0] for row in _KEYPOINTS)
KEYPOINTS = np.array([row[1] for row in _KEYPOINTS])
KEYPOINT_SHAPE = np.array([row[2:] for row in _KEYPOINTS])


@dataclass(frozen=True)
class HeadTrack:
    """Head pose and face shape of T frames; in frames without a face (valid False) the last known ones are held."""

    rotation: np.ndarray  # [T,3,3] float64, canonical to image axes
    scale: np.ndarray  # [T] float64, image units per decimetre
    translation: np.ndarray  # [T,2] float64, image units
    keypoints: np.ndarray  # [T,21,3] float64, canonical coordinates of this frame's keypoints
    valid: np.ndarray  # [T] bool


def fit_pose(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares pose of the rigid landmarks `points` [T,25,3]: rotation [T,3,3], scale [T], translation [T,3].

    Weighted similarity transform of Umeyama (1991), reflections excluded.
    """
    weights = RIGID_WEIGHTS
    shape_mean, mean = weights @ RIGID_SHAPE, np.einsum("n,tnc->tc", weights, points)
    shape, points = RIGID_SHAPE - shape_mean, points - mean[:, None]
    u, singular, vt = np.linalg.svd(np.einsum("n,tni,nj->tij", weights, points, shape))
    sign = np.ones_like(singular)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt
    scale = (singular * sign).sum(1) / (weights @ (shape**2).sum(1))
    return rotation, scale, mean - scale[:, None] * (rotation @ shape_mean)


def held(valid: np.ndarray) -> np.ndarray:
    """For each frame of `valid` [T], the row of the last valid one among the valid ones; before the first, the first.

    Raises Rejected no_landmarks when there is no frame with a face.
    """
    if not valid.any():
        raise Rejected(
            "no_landmarks", f"none of {len(valid)} frames has landmarks, so there is no head pose to measure"
        )
    return np.maximum(np.cumsum(valid) - 1, 0)


def track_head(landmarks: np.ndarray, valid: np.ndarray, size: int) -> HeadTrack:
    """Head of each frame from landmarks [T,478,3] in pixels of a `size` x `size` clip; `valid` [T] says where they are.

    Raises Rejected no_landmarks when there is no frame with a face.
    """
    index = held(valid)
    image = landmarks[valid].astype(np.float64) * (2 / size) - np.array([1, 1, 0])
    rotation, scale, translation = fit_pose(image[:, RIGID])
    relative = image[:, KEYPOINTS] - translation[:, None]
    keypoints = np.einsum("tji,tnj->tni", rotation, relative) / scale[:, None, None]
    return HeadTrack(rotation[index], scale[index], translation[index, :2], keypoints[index], valid.copy())


def landmarks_of(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [T,478,3] in pixels of the clip, and in which frames [T] they are known.

    Raises BadInput landmark_length, landmarks_not_finite.
    """
    arrays, frames = clip.read_landmarks(), int(clip.info["frames"])
    landmarks, valid = arrays["landmarks"], arrays["valid"].astype(bool)
    if landmarks.shape != (frames, LANDMARKS, 3) or valid.shape != (frames,):
        raise BadInput(
            "landmark_length",
            f"{clip.landmarks}: landmarks {landmarks.shape} and valid {valid.shape} do not fit {frames} frames;"
            " crop the source again",
        )
    if not np.isfinite(landmarks[valid]).all():
        raise BadInput("landmarks_not_finite", f"{clip.landmarks}: landmarks of valid frames hold NaN or infinity")
    return landmarks, valid


def head_of(clip: Clip) -> HeadTrack:
    """The head track of a clip. Raises as `landmarks_of` does, and Rejected no_landmarks."""
    landmarks, valid = landmarks_of(clip)
    return track_head(landmarks, valid, int(clip.info["size"]))
