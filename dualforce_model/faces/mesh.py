"""Measuring each frame of a clip once: landmarks, and what the quality filter wants to know of the face's pixels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from dualforce_model.faces import landmarker
from dualforce_model.faces.detect import Mesh
from dualforce_model.faces.landmarker import Landmarker

LANDMARKS = 478
TRACKING = 0.5  # MediaPipe's own confidence below which it looks for the face anew
FACE_PX = 128  # faces are compared at one size, or a small one would always look sharper than a large one
STRAY = 0.6  # of its size: a mesh further from where the track saw the face belongs to somebody else

# The landmarks file: name -> (shape, dtype, what it is). T frames, 25 per second. With the Face Landmarker, those of
# `landmarker.ARRAYS`, too.
ARRAYS = {
    "landmarks": (
        ("T", LANDMARKS, 3),
        "float32",
        "MediaPipe's mesh: x, y in pixels of the clip, z in the same unit; 0 if not valid",
    ),
    "valid": (("T",), "bool", "whether the face was found in this frame"),
    "fresh": (("T",), "bool", "False where the source showed the frame before for longer"),
    "sharpness": (("T",), "float32", "variance of the Laplacian of the grey face at 128 px; 0 if not valid"),
    "luminance": (("T",), "float32", "mean of the grey face, 0..255; 0 if not valid"),
    "contrast": (("T",), "float32", "standard deviation of the grey face, 0..255; 0 if not valid"),
    "change": (("T",), "float32", "mean absolute change of the grey crop at 64 px since the frame before, 0..255"),
}


class FaceMeter:
    """Measures consecutive frames of one crop. Core-ms per frame: mesh 2.6, the rest 0.5."""

    def __init__(self, size: int, landmarks: Literal["mesh", "landmarker"] = "mesh"):
        self.size = size  # of the clip, in whose pixels the landmarks are given
        self._landmarker = Landmarker(TRACKING) if landmarks == "landmarker" else None
        self._mesh = self._landmarker or Mesh(TRACKING, static=False)
        self._arrays = ARRAYS | (landmarker.ARRAYS if self._landmarker else {})
        self._rows: dict[str, list[Any]] = {name: [] for name in self._arrays}
        self._before: np.ndarray | None = None

    def close(self) -> None:
        self._mesh.close()

    def measure(self, crop: np.ndarray, fresh: bool, expected: tuple[float, float, float]) -> None:
        """Add a frame: square RGB uint8 `crop`; by its track, the face's centre x, y and side (0..1 of the crop)."""
        import cv2

        if not fresh and self._rows["valid"]:
            for name, values in self._rows.items():
                values.append({"fresh": False, "change": 0.0}.get(name, values[-1]))
            return
        points = self._landmarks(crop, expected)
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
        change = 0.0 if self._before is None else float(cv2.absdiff(small, self._before).mean())
        self._before = small
        row: dict[str, Any] = {"valid": points is not None, "fresh": fresh, "change": change}
        row |= {"sharpness": 0.0, "luminance": 0.0, "contrast": 0.0}
        row["landmarks"] = np.zeros((LANDMARKS, 3), np.float32)
        if self._landmarker:
            row["blendshapes"] = self._landmarker.blendshapes * (points is not None)
            row["matrix"] = self._landmarker.matrix * (points is not None)
        if points is not None:
            row["landmarks"] = points * np.float32(self.size)
            left, top = np.clip(points[:, :2].min(0) * len(crop), 0, len(crop) - 2).astype(int)
            right, bottom = np.clip(points[:, :2].max(0) * len(crop), 2, len(crop)).astype(int)
            face = cv2.resize(
                grey[top : max(bottom, top + 2), left : max(right, left + 2)],
                (FACE_PX, FACE_PX),
                interpolation=cv2.INTER_AREA,
            )
            row["sharpness"] = float(cv2.Laplacian(face, cv2.CV_32F).var())
            mean, deviation = cv2.meanStdDev(face)
            row["luminance"], row["contrast"] = float(mean[0, 0]), float(deviation[0, 0])
        for name, value in row.items():
            self._rows[name].append(value)

    def _landmarks(self, crop: np.ndarray, expected: tuple[float, float, float]) -> np.ndarray | None:
        """float32 [478,3] in 0..1 of the crop, or None when the face is not found where the track saw it."""
        points = self._mesh.points(crop)
        if points is None:
            return None
        x, y, side = expected
        middle = (points[:, :2].min(0) + points[:, :2].max(0)) / 2
        return points if np.hypot(middle[0] - x, middle[1] - y) <= STRAY * side else None

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of `ARRAYS` for all frames measured."""
        return {name: np.array(self._rows[name], dtype=dtype) for name, (_, dtype, _) in self._arrays.items()}
