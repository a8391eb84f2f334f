"""The face of one picture, cropped as in the clips: for the reference picture of generation."""

from __future__ import annotations

import numpy as np

from dualforce_model.errors import Rejected
from dualforce_model.faces.config import FaceCropConfig
from dualforce_model.faces.detect import Face, cut
from dualforce_model.faces.insightface import finder_of
from dualforce_model.faces.plan import OTHERS, square
from dualforce_model.faces.tracks import Track

LOOK_PX = 1280


def crop_picture(rgb: np.ndarray, config: FaceCropConfig) -> np.ndarray:
    """The one face in `rgb` (uint8 [H,W,3]) as uint8 [size,size,3], cropped as `crop_source` does.

    Raises Rejected no_face, several_faces; ValueError for another kind of array.
    """
    import cv2

    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected RGB uint8 [H,W,3], got {rgb.dtype} {rgb.shape}")
    scale = max(1.0, max(rgb.shape[:2]) / LOOK_PX)
    size = (round(rgb.shape[1] / scale), round(rgb.shape[0] / scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale > 1 else np.ascontiguousarray(rgb)
    finder = finder_of(config)
    found = [f for f in finder.search(small, scale, [], tiles=True) if f.side >= config.min_track_px]
    faces = [f for f in found if finder.human(small, scale, f)]
    if not faces:
        raise Rejected("no_face", f"no human face in this picture of {rgb.shape[1]}x{rgb.shape[0]} pixels")
    faces.sort(key=lambda f: -f.side)
    others = [f for f in faces[1:] if f.side >= OTHERS * faces[0].side]
    if others:
        raise Rejected(
            "several_faces", f"{len(others) + 1} faces in the picture, the largest {_px(faces[0])} and {_px(others[0])}"
        )
    left, top, side = square(Track([0], faces[:1]), config)
    return cut(rgb, left, top, side, config.size)


def _px(face: Face) -> str:
    return f"{face.side:.0f} px"
