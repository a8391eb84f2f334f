"""The portraits that the dependencies carry, upright and enlarged, with the facial points that the puppet needs.

scikit-image's `astronaut` (NASA, public domain) and two sitters of insightface's `t1.jpg` group photo, the sample
picture of that MIT-licensed package. The pictures are read from the installed packages; none is copied here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# MediaPipe mesh: inner lips from the right to the left corner, eyelids likewise.
UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
UPPER_LIDS = ((33, 246, 161, 160, 159, 158, 157, 173, 133), (362, 398, 384, 385, 386, 387, 388, 466, 263))
LOWER_LIDS = ((33, 7, 163, 144, 145, 153, 154, 155, 133), (362, 382, 381, 380, 374, 373, 390, 249, 263))
EYE_CORNERS = (33, 263)
CHIN, FOREHEAD = 152, 10

# name: (picture, face centre x, y and half side of the square that is searched, in pixels of the picture)
SITTERS = {
    "astronaut": ("astronaut.png", 225, 125, 110),
    "man": ("t1.jpg", 510, 331, 100),
    "woman": ("t1.jpg", 1168, 365, 100),
}


@dataclass(frozen=True)
class Portrait:
    """An upright portrait filling a canvas.

    picture: uint8 RGB [H,W,3].  points: float64 [478,2], the mesh in its pixels.
    """

    picture: np.ndarray
    points: np.ndarray

    @property
    def face_width(self) -> float:
        return float(np.ptp(self.points[:, 0]))


def sit(name: str, width: int, height: int, face_width: float, centre: tuple[float, float] = (0.5, 0.56)) -> Portrait:
    """Sitter `name` on a canvas of width x height px, the face `face_width` px wide with its middle at `centre`.

    centre: fractions of the canvas. Around a sitter of the group photo the picture is out of focus, as in a portrait
    photograph, so that no second face is in view.
    """
    import cv2

    picture, points = _photo(name)
    right, left = points[EYE_CORNERS[0]], points[EYE_CORNERS[1]]
    roll = np.arctan2(left[1] - right[1], left[0] - right[0])
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    upright = points @ turn.T
    linear = turn * (face_width / np.ptp(upright[:, 0]))
    middle = (upright.min(0) + upright.max(0)) / 2 * (face_width / np.ptp(upright[:, 0]))
    place = np.array([centre[0] * width, min(centre[1] * height, middle[1])])  # nothing above the photo's upper edge
    shift = place - middle
    matrix = np.hstack([linear, shift[:, None]])
    canvas = cv2.warpAffine(
        picture, matrix, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101
    )
    placed = points @ linear.T + shift
    soft = cv2.GaussianBlur(canvas, (0, 0), 1.6)
    canvas = cv2.addWeighted(canvas, 1.8, soft, -0.8, 0)  # a small face enlarged is soft; give it back its edges
    if SITTERS[name][0] == "t1.jpg":
        canvas = _out_of_focus(canvas, placed)
    grain = np.random.default_rng(7).normal(0, 1.2, canvas.shape[:2])[..., None]  # skin has pores, enlarged skin none
    return Portrait(np.clip(canvas + grain, 0, 255).astype(np.uint8), placed)


def _out_of_focus(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    import cv2

    height, width = canvas.shape[:2]
    face = np.ptp(points[:, 0])
    x0, y0 = (points.min(0) + points.max(0)) / 2
    y, x = np.mgrid[:height, :width].astype(np.float32)
    head = 1.5 - np.hypot((x - x0) / (0.78 * face), (y - y0 + 0.12 * face) / (0.95 * face))
    body = 1.5 - np.hypot((x - x0) / (1.1 * face), (y - y0 - 1.5 * face) / (1.1 * face))
    focus = np.clip(2.0 * np.maximum(head, body), 0, 1)[..., None]
    back = cv2.GaussianBlur(canvas, (0, 0), face / 8)
    return (focus * canvas + (1 - focus) * back).astype(np.uint8)


def _photo(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture (RGB) and the sitter's mesh in its pixels."""
    import cv2

    from dualforce_model.faces.detect import quiet

    with quiet():
        from mediapipe.python.solutions.face_mesh import FaceMesh

    file, x, y, half = SITTERS[name]
    picture = picture_of(file)
    x0, y0 = max(0, x - half), max(0, y - half)
    square = cv2.resize(picture[y0 : y + half, x0 : x + half], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    with quiet(), FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True) as mesh:
        found = mesh.process(square).multi_face_landmarks
    if not found:
        raise RuntimeError(f"MediaPipe finds no face of the {name} in {file}: has the picture or the model changed?")
    points = np.array([(p.x * square.shape[1], p.y * square.shape[0]) for p in found[0].landmark])
    return picture, np.round(points / 3 + (x0, y0), 2)


def picture_of(file: str) -> np.ndarray:
    """A picture from inside an installed package, RGB uint8; the packages themselves are not imported (slow)."""
    from importlib.util import find_spec

    from PIL import Image

    package, folder = ("skimage", "data") if file.endswith(".png") else ("insightface", "data/images")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the demo portraits are inside the package {package!r}, which is not installed")
    with Image.open(Path(spec.submodule_search_locations[0]) / folder / file) as image:
        return np.asarray(image.convert("RGB"))
