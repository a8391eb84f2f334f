"""What a generated video may show beside itself: the picture that it was made from, and the struct stream's face."""

from __future__ import annotations

import numpy as np

DOT = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]], bool)
COLOUR = np.array([60, 255, 120], np.uint8)


def beside(picture: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The reference picture left of a frame: [size,2·size,3]."""
    return np.concatenate([picture, frame], 1)


def with_landmarks(frame: np.ndarray, struct: np.ndarray) -> np.ndarray:
    """A copy of a frame [size,size,3] with a dot at each of the 21 keypoints that struct latents [72] place in it.

    For struct latents of the mediapipe backend: LivePortrait's keep the shape that they are offsets from to themselves.
    """
    from dualforce_model.features.struct_latents import keypoints_of

    size, out = len(frame), frame.copy()
    points = keypoints_of(struct[None].astype(np.float32), size)[0, :, :2]
    reach = len(DOT) // 2
    for x, y in np.nan_to_num(points, nan=-size, posinf=-size, neginf=-size):
        left, top = round(float(x)) - reach, round(float(y)) - reach
        rows = slice(max(0, top), max(0, min(size, top + len(DOT))))
        columns = slice(max(0, left), max(0, min(size, left + len(DOT))))
        there = DOT[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        out[rows, columns][there] = COLOUR
    return out
