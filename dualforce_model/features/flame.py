"""FLAME parameters: 159 numbers per raw frame, and for each whether it was measured.

Layout (shared by every backend; DECA's and EMOCA's order)
    [0:100]    shape       [100:150] expression
    [150:153]  global pose, axis-angle, radians; FLAME's axes: x right, y up, z towards the camera
    [153:156]  jaw, axis-angle; its first number is the opening
    [156:159]  camera scale, tx, ty: image = scale * (xy in metres + t), y up, the square clip spans -1 .. 1
The MediaPipe backend measures the global pose, the jaw's opening and the camera (of the canonical head's origin, see
`features.head`). Everything else is zero and marked invalid: landmarks don't tell it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from dualforce_model.features import emoca, head

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = "1"

DIM = 159
SHAPE, EXPRESSION, POSE, JAW, CAMERA = slice(0, 100), slice(100, 150), slice(150, 153), slice(153, 156), slice(156, 159)
IDENTITY = SHAPE  # says who it is, not what the face does: one vector per clip, the same in every frame
JAW_OPENING = JAW.start
METRES = 0.1  # per canonical unit

_UP = np.array([1.0, -1.0, -1.0])  # our axes to FLAME's: y up, z towards the camera
_UPPER, _LOWER = (head.KEYPOINT_NAMES.index(f"{lip}_lip_inner") for lip in ("upper", "lower"))
_HINGE = np.array([-0.0673, 0.2436])  # y, z of the jaw's axis: the ears of the canonical model (landmarks 234, 454)
_ARM = float(np.linalg.norm(head.KEYPOINT_SHAPE[_LOWER, 1:] - _HINGE))


@dataclass(frozen=True)
class FlameConfig:
    """Which backend measures the parameters; `emoca` and `deca` need the weights of those names."""

    backend: Literal["mediapipe", "emoca", "deca"] = "mediapipe"
    encoder: emoca.EmocaConfig = field(default_factory=emoca.EmocaConfig)


def axis_angle(rotation: np.ndarray) -> np.ndarray:
    """Rotation vectors [T,3] float64 of rotation matrices [T,3,3]."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_rotvec()


def jaw_opening(keypoints: np.ndarray) -> np.ndarray:
    """Angle [T] in radians by which the jaw is open, from keypoints [T,21,3] in canonical coordinates.

    The gap between the inner lips is the chord that the lower one travelled about the hinge; closed lips are 0.
    """
    gap = keypoints[:, _LOWER, 1] - keypoints[:, _UPPER, 1]
    return 2 * np.arcsin(np.clip(gap / (2 * _ARM), 0, 1))


def extract(clip: Clip, config: FlameConfig) -> dict[str, np.ndarray]:
    """`{"flame": [T,159] float32, "valid": [T,159] bool}`; frames without landmarks hold values, all invalid."""
    if config.backend != "mediapipe":
        return emoca.extract(clip, config.backend, config.encoder)
    track = head.head_of(clip)
    flame = np.zeros((len(track.valid), DIM), np.float32)
    flame[:, POSE] = axis_angle(track.rotation * np.outer(_UP, _UP))
    flame[:, JAW_OPENING] = jaw_opening(track.keypoints)
    scale = track.scale / METRES
    flame[:, CAMERA] = np.column_stack([scale, track.translation * _UP[:2] / scale[:, None]])
    measured = np.zeros(DIM, bool)
    measured[[*range(POSE.start, POSE.stop), JAW_OPENING, *range(CAMERA.start, CAMERA.stop)]] = True
    return {"flame": flame, "valid": track.valid[:, None] & measured}
