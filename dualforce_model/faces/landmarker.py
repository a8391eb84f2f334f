"""MediaPipe's Face Landmarker task: the 478 points of the mesh, 52 blendshapes and the head's matrix for each picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from dualforce_model import weights
from dualforce_model.faces.detect import quiet
from dualforce_model.timeline import FPS

WEIGHTS = "face_landmarker"
FILE = "face_landmarker_v2_with_blendshapes.task"
BLENDSHAPES = 52
JAW_OPEN = 25  # column of `jawOpen`

# What it measures beside the points: name -> (shape, dtype, what it is). T frames.
ARRAYS = {
    "blendshapes": (("T", BLENDSHAPES), "float32", "ARKit-like expression, 0..1, in MediaPipe's order; 0 if not valid"),
    "matrix": (("T", 4, 4), "float32", "canonical face (cm; y up, z to the camera) to camera; 0 if not valid"),
}

_FLIP = np.diag([1.0, -1.0, -1.0])  # y up and z to the camera, against our y down and z away


class Landmarker:
    """Consecutive pictures of a face; `points` as `detect.Mesh` gives them, then `blendshapes` and `matrix` of it.

    Of two faces in a picture it is the larger one.
    """

    def __init__(self, min_presence: float):
        from mediapipe.tasks.python import BaseOptions, vision

        self.blendshapes = np.zeros(BLENDSHAPES, np.float32)
        self.matrix = np.zeros((4, 4), np.float32)
        self._at = 0
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(weights.locate(WEIGHTS) / FILE)),
            running_mode=vision.RunningMode.VIDEO,
            # With one face the task smooths its points over time, so that lips come half a frame late. Two: it does not.
            num_faces=2,
            min_tracking_confidence=min_presence,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        with quiet():
            self._task: Any = vision.FaceLandmarker.create_from_options(options)

    def points(self, picture: np.ndarray) -> np.ndarray | None:
        """float32 [478,3]: x, y, z in widths of the square RGB `picture`, or None without a face."""
        import mediapipe

        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        found = self._task.detect_for_video(image, self._at * 1000 // FPS)
        self._at += 1
        if not found.face_landmarks:
            self.blendshapes, self.matrix = np.zeros_like(self.blendshapes), np.zeros_like(self.matrix)
            return None
        faces = [np.array([(p.x, p.y, p.z) for p in face], np.float32) for face in found.face_landmarks]
        largest = int(np.argmax([np.ptp(points[:, :2], axis=0).max() for points in faces]))
        self.blendshapes = np.array([shape.score for shape in found.face_blendshapes[largest]], np.float32)
        self.matrix = np.asarray(found.facial_transformation_matrixes[largest], np.float32)
        return faces[largest]

    def close(self) -> None:
        """Stop the graph; once is enough, more often does no harm."""
        if self._task is not None:
            self._task.close()
        self._task = None


def rotation_of(matrix: np.ndarray) -> np.ndarray:
    """Head rotations [T,3,3] of matrices [T,4,4] in the axes of `features.head` (canonical to picture, y down)."""
    turned = matrix[:, :3, :3].astype(np.float64)
    scale = np.cbrt(np.linalg.det(turned))[:, None, None]
    return _FLIP @ (turned / scale) @ _FLIP
