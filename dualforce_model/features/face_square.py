"""The squares around a face that the published networks were trained on, from MediaPipe's landmarks."""

from __future__ import annotations

import numpy as np

# Landmarks of MediaPipe's mesh that outline a face as the 68, 106 and 203 point schemes do: jaw from ear to ear, brows.
# The mesh reaches up to the hairline, those schemes don't.
JAW = (127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356)
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
OUTLINE = np.array(JAW + BROWS)
EYES, MOUTH = np.array((33, 133, 362, 263)), np.array((61, 291))


def upright(points: np.ndarray, scale: float, shift: float) -> np.ndarray:
    """Squares [T,3] (centre x, y, side) around faces [T,478,2+]: LivePortrait's `parse_rect_from_landmark`.

    The extent is taken along the line from eyes to mouth, so that a tilted head gets no larger square. `scale`: side
    over the larger extent; `shift`: how far the centre moves along that line, as a share of the side.
    """
    outline = points[:, OUTLINE, :2].astype(np.float64)
    down = points[:, MOUTH, :2].mean(1, dtype=np.float64) - points[:, EYES, :2].mean(1, dtype=np.float64)
    down /= np.maximum(np.linalg.norm(down, axis=1, keepdims=True), 1e-6)
    axes = np.stack([np.stack([down[:, 1], -down[:, 0]], 1), down], 1)  # [T,2,2], rows across and down
    middle = outline.mean(1)
    along = np.einsum("tij,tnj->tni", axes, outline - middle[:, None])
    low, high = along.min(1), along.max(1)
    side = (high - low).max(1) * scale
    centre = middle + np.einsum("ti,tij->tj", (low + high) / 2, axes) + down * (shift * side)[:, None]
    return np.column_stack([centre, side])


def boxed(points: np.ndarray, scale: float) -> np.ndarray:
    """Squares [T,3] (centre x, y, side) around faces [T,478,2+]: DECA's, from the box of 68 points."""
    outline = points[:, OUTLINE, :2].astype(np.float64)
    low, high = outline.min(1), outline.max(1)
    return np.column_stack([(low + high) / 2, (high - low).mean(1) * scale])


def take(picture: np.ndarray, square: np.ndarray, size: int) -> np.ndarray:
    """The square (centre x, y, side) of `picture` [H,W,3] as [size,size,3], black outside of it."""
    import cv2

    x, y, side = square
    zoom = size / side
    matrix = np.array([[zoom, 0, size / 2 - zoom * x], [0, zoom, size / 2 - zoom * y]])
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR)
