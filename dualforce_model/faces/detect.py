"""Finding faces in one picture with MediaPipe's bundled models, and telling human ones from the rest."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

PATCH = 256  # the landmark model reads 192 pixels; a patch a bit larger than that loses nothing
PATCH_MARGIN = 2.0  # patch side over face box side: the detector inside the mesh wants to see the whole head
FOLLOW_MARGIN = 2.5  # of the face box: how far around a face it is looked for a moment later
PACKED = 17  # bytes of a landmark in protobuf
TILE = 480  # a face of 1/10 of a tile is still found
SAME = 0.35  # overlap (intersection over the smaller box) from which two boxes are one face


@dataclass(frozen=True)
class Face:
    """A found face: centre and side of its square box in pixels, confidence, whether it is human (None: unknown)."""

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


class Mesh:
    """MediaPipe's 478-point mesh of the one face in a picture. `static`: unrelated pictures, else frames in a row."""

    def __init__(self, min_presence: float, static: bool):
        with quiet():
            from mediapipe.python.solutions.face_mesh import FaceMesh

            self._mesh: Any = FaceMesh(
                static_image_mode=static, max_num_faces=1, refine_landmarks=True, min_tracking_confidence=min_presence
            )
            self._mesh.process(np.zeros((PATCH, PATCH, 3), np.uint8))
        self._silent = False

    def points(self, picture: np.ndarray) -> np.ndarray | None:
        """float32 [478,3]: x, y, z in widths of the square RGB `picture`, or None without a face."""
        if self._silent:
            found = self._mesh.process(picture).multi_face_landmarks
        else:
            with quiet():  # the models speak of themselves at their start and once more at the first face
                found = self._mesh.process(picture).multi_face_landmarks
            self._silent = bool(found)
        if not found:
            return None
        packed = np.frombuffer(found[0].SerializeToString(), np.uint8)
        if len(packed) != PACKED * len(found[0].landmark):
            return np.array([(p.x, p.y, p.z) for p in found[0].landmark], np.float32)
        # message tag and length, then x, y, z as one tag byte and a float each: 20 times as quick as attribute access
        fields = packed.reshape(-1, PACKED)[:, 2:].reshape(-1, 3, 5)[:, :, 1:]
        return np.ascontiguousarray(fields).view("<f4")[:, :, 0]

    def close(self) -> None:
        """Stop the graph; once is enough, more often does no harm."""
        if self._mesh is not None:
            self._mesh.close()
        self._mesh = None


@functools.cache
def detector(min_detection: float, min_presence: float) -> Detector:
    """The process's detector: starting one costs 70 ms, and it remembers nothing from picture to picture."""
    return Detector(min_detection, min_presence)


class Detector:
    """Faces of single pictures (RGB uint8). On one core: near 1.5 ms, far 4 ms, human 4 ms a call."""

    def __init__(self, min_detection: float, min_presence: float):
        with quiet():
            from mediapipe.python.solutions.face_detection import FaceDetection

            # two models: faces up to 2 m (also tilted and half hidden ones), and up to 5 m (also small ones)
            self._near = FaceDetection(model_selection=0, min_detection_confidence=min_detection)
            self._far = FaceDetection(model_selection=1, min_detection_confidence=min_detection)
            self._mesh = Mesh(min_presence, static=True)
            blank = np.zeros((PATCH, PATCH, 3), np.uint8)
            for model in (self._near, self._far):
                model.process(blank)  # what the models have to say of themselves, they say at the first picture

    def search(self, picture: np.ndarray, scale: float, known: list[Face], tiles: bool) -> list[Face]:
        """All faces: the `known` ones, what both models see in the whole picture and, with `tiles`, also small ones.

        `scale`: pixels of the source per pixel of the picture; faces are given in pixels of the source.
        """
        faces = self._near_known(picture, scale, known)
        faces += self._faces(self._far, picture, scale) + self._faces(self._near, picture, scale)
        height, width = picture.shape[:2]
        if tiles and max(height, width) > 1.25 * TILE:
            for top in _starts(height):
                for left in _starts(width):
                    tile = np.ascontiguousarray(picture[top : top + TILE, left : left + TILE])
                    faces += self._faces(self._far, tile, scale, left * scale, top * scale)
        return _one_per_place(faces)

    def follow(self, picture: np.ndarray, scale: float, known: list[Face]) -> list[Face]:
        """The faces that were at `known` a moment ago, where they are now; ones that are gone are left out."""
        faces = self._near_known(picture, scale, known)
        if len(faces) < len(known):
            faces += self._faces(self._far, picture, scale)
        return _one_per_place(faces)

    def _near_known(self, picture: np.ndarray, scale: float, known: list[Face]) -> list[Face]:
        """What the near model finds where the known faces were."""
        faces: list[Face] = []
        for face in known:
            side = FOLLOW_MARGIN * face.side
            left, top = face.x - side / 2, face.y - side / 2
            patch = cut(picture, left / scale, top / scale, side / scale, PATCH)
            found = self._faces(self._near, patch, side / PATCH, left, top)
            faces += sorted(found, key=lambda f: np.hypot(f.x - face.x, f.y - face.y))[:1]
        return faces

    def human(self, picture: np.ndarray, scale: float, face: Face) -> bool:
        """Whether the landmark model is sure to see a human face there."""
        side = PATCH_MARGIN * face.side / scale
        patch = cut(picture, face.x / scale - side / 2, face.y / scale - side / 2, side, PATCH)
        return self._mesh.points(patch) is not None

    @staticmethod
    def _faces(model: Any, picture: np.ndarray, scale: float, left: float = 0, top: float = 0) -> list[Face]:
        """What `model` finds; `left`, `top`: where the picture's corner lies in the source."""
        height, width = picture.shape[:2]
        faces = []
        for found in model.process(picture).detections or []:
            box = found.location_data.relative_bounding_box
            x, y = left + (box.xmin + box.width / 2) * width * scale, top + (box.ymin + box.height / 2) * height * scale
            faces.append(Face(x, y, max(box.width * width, box.height * height) * scale, float(found.score[0])))
        return faces


def _one_per_place(faces: list[Face]) -> list[Face]:
    """The surest of those that overlap."""
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
    """The square [left, left+side) x [top, top+side) of `picture` as uint8 [size,size,3]; outside, its border goes on.

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
        # a black bar would be an edge that no head has, for codec and model to spend themselves on
        inside = cv2.copyMakeBorder(inside, before_y, after_y, before_x, after_x, cv2.BORDER_REPLICATE)
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
