"""What a generated video may show beside itself: the picture that it was made from, and the struct stream's face."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

DOT = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]], bool)
COLOUR = np.array([60, 255, 120], np.uint8)


def beside(picture: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The reference picture left of a frame: [size,2·size,3]."""
    return np.concatenate([picture, frame], 1)


def keypoints(card: Mapping[str, Any], picture: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """From struct latents [72] to the 21 keypoints [21,2] that they place in a frame, pixels, for a dataset's card.

    LivePortrait's latents are relative to a face at rest that only the network knows: it looks at `picture`, the reference
    [size,size,3]. Raises Rejected no_face, MissingWeightsError, WeightsError.
    """
    from dualforce_model.features.liveportrait import canonical_of
    from dualforce_model.features.struct_latents import keypoints_of

    if card["features"]["struct_latents"]["config"]["backend"] == "liveportrait":
        face = canonical_of(picture)
        return lambda struct: face.placed(struct[None])[0]
    return lambda struct: keypoints_of(struct[None].astype(np.float32), len(picture))[0, :, :2]


def with_landmarks(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A copy of a frame [size,size,3] with a dot at each of the keypoints [21,2], pixels."""
    size, out = len(frame), frame.copy()
    reach = len(DOT) // 2
    for x, y in np.nan_to_num(points, nan=-size, posinf=-size, neginf=-size):
        left, top = round(float(x)) - reach, round(float(y)) - reach
        rows, columns = (slice(max(0, at), max(0, at, min(size, at + len(DOT)))) for at in (top, left))
        there = DOT[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        out[rows, columns][there] = COLOUR
    return out
