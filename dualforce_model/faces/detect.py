"""Finding faces in one picture with MediaPipe's bundled models, and telling human ones from the rest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PATCH = 256  # the landmark model reads 192 pixels; a patch a bit larger than that loses nothing
PATCH_MARGIN = 2.0  # patch side over face box side: the detector inside the mesh wants to see the whole head
TILE = 480  # a face of 1/10 of a tile is still found
SAME = 0.35  # overlap (intersection over the smaller box) from which two boxes are one face


@dataclass(frozen=True)
class Face:
    """A found face: centre and side of its square box in pixels, confidence, and whether it is human (None: not looked)."""

    x: float
    y: float
    side: float
    score: float
    human: bool | None = None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what MediaPipe's C++ prints to stderr while a graph starts; its errors come as exceptions."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def face_mesh(min_presence: float, static: bool) -> Any:
    """MediaPipe's 478-point mesh for one face. `static`: pictures unrelated to each other, else consecutive frames."""
    from mediapipe.python.solutions.face_mesh import FaceMesh

    return FaceMesh(
        static_image_mode=static, max_num_faces=1, refine_landmarks=True, min_tracking_confidence=min_presence
    )


class Detector:
    """Faces of single pictures (RGB uint8). Use as a context manager. One core-ms figures: look 4, short 1.5, human 4."""

    def __init__(self, min_detection: float, min_presence: float, min_side: float):
        with quiet():
            from mediapipe.python.solutions.face_detection import FaceDetection

            # two models: faces up to 5 m (also small ones), and up to 2 m (also tilted and half hidden ones)
            self._far = FaceDetection(model_selection=1, min_detection_confidence=min_detection)
            self._near = FaceDetection(model_selection=0, min_detection_confidence=min_detection)
            self._mesh = face_mesh(min_presence, static=True)
            blank = np.zeros((PATCH, PATCH, 3), np.uint8)
            for model in (self._far, self._near, self._mesh):
                model.process(blank)  # what they have to say about themselves, they say at the first picture
        self.min_side = min_side

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, *_: object) -> None:
        for model in (self._far, self._near, self._mesh):
            model.close()

    def look(self, picture: np.ndarray, scale: float, expected: int) -> list[Face]:
        """Faces at a glance; `scale`: source pixels per picture pixel. Looks twice where it finds fewer than `expected`."""
        faces = self._merge(self._faces(self._far, picture, scale))
        return faces if len(faces) >= expected else self._merge(faces + self._faces(self._near, picture, scale))

    def search(self, picture: np.ndarray, scale: float) -> list[Face]:
        """All faces, small ones too: both models on the whole picture, the far one on overlapping tiles."""
        faces = self._faces(self._far, picture, scale) + self._faces(self._near, picture, scale)
        height, width = picture.shape[:2]
        if max(height, width) > 1.25 * TILE:
            for top in _starts(height):
                for left in _starts(width):
                    tile = np.ascontiguousarray(picture[top : top + TILE, left : left + TILE])
                    faces += self._faces(self._far, tile, scale, left, top)
        return self._merge(faces)

    def human(self, picture: np.ndarray, scale: float, face: Face) -> bool:
        """Whether the landmark model is sure to see a human face there."""
        side = PATCH_MARGIN * face.side / scale
        patch = cut(picture, face.x / scale - side / 2, face.y / scale - side / 2, side, PATCH)
        return self._mesh.process(patch).multi_face_landmarks is not None

    def _faces(self, model: Any, picture: np.ndarray, scale: float, left: int = 0, top: int = 0) -> list[Face]:
        height, width = picture.shape[:2]
        faces = []
        for found in model.process(picture).detections or []:
            box = found.location_data.relative_bounding_box
            side = max(box.width * width, box.height * height) * scale
            x, y = (
                (left + (box.xmin + box.width / 2) * width) * scale,
                (top + (box.ymin + box.height / 2) * height) * scale,
            )
            if side >= self.min_side:
                faces.append(Face(x, y, side, float(found.score[0])))
        return faces

    @staticmethod
    def _merge(faces: list[Face]) -> list[Face]:
        """One face per place: the surest."""
        kept: list[Face] = []
        for face in sorted(faces, key=lambda f: (-f.score, f.x, f.y)):
            if all(overlap(face, other) < SAME for other in kept):
                kept.append(face)
        return kept


def overlap(a: Face, b: Face) -> float:
    """Area that two boxes share over the area of the smaller."""
    width = min(a.x + a.side / 2, b.x + b.side / 2) - max(a.x - a.side / 2, b.x - b.side / 2)
    height = min(a.y + a.side / 2, b.y + b.side / 2) - max(a.y - a.side / 2, b.y - b.side / 2)
    return max(0.0, width) * max(0.0, height) / min(a.side, b.side) ** 2


def cut(picture: np.ndarray, left: float, top: float, side: float, size: int) -> np.ndarray:
    """The square [left, left+side) x [top, top+side) of `picture` as uint8 [size,size,3]; outside it is black.

    Nothing is moved or clamped at the borders: the square may lie partly or wholly outside.
    """
    import cv2

    height, width = picture.shape[:2]
    x0, y0, n = round(left), round(top), max(2, round(side))
    inside = picture[max(0, y0) : max(0, y0 + n), max(0, x0) : max(0, x0 + n)]
    before_x, before_y = max(0, -x0), max(0, -y0)
    after_x, after_y = max(0, x0 + n - width), max(0, y0 + n - height)
    if not inside.size:
        return np.zeros((size, size, 3), np.uint8)
    if before_x or before_y or after_x or after_y:
        inside = cv2.copyMakeBorder(inside, before_y, after_y, before_x, after_x, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    if n == size:
        return np.ascontiguousarray(inside)
    # averaging where pixels would be skipped otherwise; the linear kernel is the quicker and enough until there
    method = cv2.INTER_AREA if n > 1.6 * size else cv2.INTER_LINEAR if n > size else cv2.INTER_CUBIC
    return cv2.resize(inside, (size, size), interpolation=method)


def _starts(length: int) -> list[int]:
    """First pixels of tiles that cover `length` and overlap by a sixth of a tile or more."""
    if length <= TILE:
        return [0]
    count = -(-(length - TILE // 6) // (TILE - TILE // 6))
    return [round(k * (length - TILE) / (count - 1)) for k in range(count)]
