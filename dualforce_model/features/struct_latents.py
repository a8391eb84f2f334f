"""Struct latents: 72 numbers per raw frame that say where the head is and what the face does.

Layout (shared by every backend; slices below)
    [0:6]   rotation: first two columns of the head's rotation matrix (Zhou et al. 2019), frontal = 1 0 0 0 1 0
    [6:8]   translation x, y of the head in the clip, which spans -1 .. 1
    [8]     scale: clip units per canonical unit
    [9:72]  offsets of 21 keypoints from the canonical shape, x y z each, in canonical head axes
MediaPipe backend: canonical shape, units and keypoints are those of `features.head`. A keypoint stands at
scale * R @ (canonical + offset) + (tx, ty, 0), so the layout can be turned back into the 21 keypoints (`keypoints_of`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from dualforce_model.features import head, liveportrait

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = "1"

DIM = 72
ROTATION, TRANSLATION, SCALE, OFFSETS = slice(0, 6), slice(6, 8), slice(8, 9), slice(9, 72)


@dataclass(frozen=True)
class StructLatentsConfig:
    """Which backend measures the motion; `liveportrait` needs the weights of that name."""

    backend: Literal["mediapipe", "liveportrait"] = "mediapipe"
    liveportrait: liveportrait.LivePortraitConfig = field(default_factory=liveportrait.LivePortraitConfig)


def pack(track: head.HeadTrack) -> np.ndarray:
    """Struct latents [T,72] float32 of a head track."""
    struct = np.empty((len(track.valid), DIM), np.float32)
    struct[:, ROTATION] = track.rotation[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)
    struct[:, TRANSLATION] = track.translation
    struct[:, SCALE] = track.scale[:, None]
    struct[:, OFFSETS] = (track.keypoints - head.KEYPOINT_SHAPE).reshape(-1, 63)
    return struct


def rotation_of(struct: np.ndarray) -> np.ndarray:
    """Rotation matrices [T,3,3] of struct latents [T,72]; the six numbers need not be orthonormal (Gram-Schmidt)."""
    a, b = struct[:, 0:3].astype(np.float64), struct[:, 3:6].astype(np.float64)
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    b = b - (a * b).sum(1, keepdims=True) * a
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    return np.stack([a, b, np.cross(a, b)], axis=2)


def keypoints_of(struct: np.ndarray, size: int) -> np.ndarray:
    """The 21 keypoints [T,21,3] in pixels of a `size` x `size` clip; z is right up to a constant per frame."""
    shape = head.KEYPOINT_SHAPE + struct[:, OFFSETS].reshape(-1, 21, 3).astype(np.float64)
    image = np.einsum("tij,tnj->tni", rotation_of(struct), shape) * struct[:, SCALE, None]
    image[..., :2] += struct[:, None, TRANSLATION]
    return (image + np.array([1, 1, 0])) * (size / 2)


def extract(clip: Clip, config: StructLatentsConfig) -> dict[str, np.ndarray]:
    """`{"struct": [T,72] float32, "valid": [T] bool}`; frames without landmarks hold the last known face."""
    if config.backend == "liveportrait":
        return liveportrait.extract(clip, config.liveportrait)
    track = head.head_of(clip)
    return {"struct": pack(track), "valid": track.valid}
