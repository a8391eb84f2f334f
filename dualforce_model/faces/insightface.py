"""Faces by InsightFace's SCRFD detectors, behind the same interface as MediaPipe's (`faces.detect.Detector`)."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np

from dualforce_model import weights
from dualforce_model.faces.config import FaceCropConfig
from dualforce_model.faces.detect import SAME, Detector, Face, detector, overlap

INPUT = 640  # pixels at which the published files look
# MediaPipe's square box against SCRFD's, which reaches up to the hairline: its side over SCRFD's longer one, and how much
# lower its centre lies, as a share of that side. So margins and thresholds mean the same with both.
SIDE, LOWER = 0.8, 0.12


class InsightFaceDetector:
    """Boxes and five points from SCRFD; whether a box is human is still the landmark model's to say.

    The landmarks of every later stage are MediaPipe's mesh, so a face without one is of no use.
    """

    def __init__(self, model: Literal["buffalo_l", "scrfd_500m"], min_detection: float, mediapipe: Detector):
        from insightface.model_zoo.scrfd import SCRFD
        from onnxruntime import InferenceSession, SessionOptions

        files = {"scrfd_500m": "scrfd_500m_kps.onnx", "buffalo_l": "det_10g.onnx"}
        path = str(weights.locate(model) / files[model])
        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the work is spread over processes
        session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._scrfd: Any = SCRFD(model_file=path, session=session)
        self._scrfd.det_thresh = min_detection
        self._mediapipe = mediapipe

    def search(self, picture: np.ndarray, scale: float, known: list[Face], tiles: bool) -> list[Face]:
        """All faces of a picture (RGB uint8), in pixels of the source (`scale` of them per picture pixel), largest first.

        SCRFD sees small faces on the whole picture already, so neither `known` faces nor `tiles` are needed.
        """
        return [face for face, _ in self.points(picture, scale)]

    def follow(self, picture: np.ndarray, scale: float, known: list[Face]) -> list[Face]:
        """The faces that were at `known` a moment ago, where they are now; ones that are gone are left out."""
        found = self.search(picture, scale, known, tiles=False)
        return [face for face in found if any(overlap(face, one) >= SAME for one in known)]

    def human(self, picture: np.ndarray, scale: float, face: Face) -> bool:
        """Whether the landmark model is sure to see a human face there."""
        return self._mediapipe.human(picture, scale, face)

    def points(self, picture: np.ndarray, scale: float) -> list[tuple[Face, np.ndarray]]:
        """Faces with their five points [5,2] (eyes, nose, mouth's corners) in pixels of the source, largest first."""
        boxes, points = self._scrfd.detect(np.ascontiguousarray(picture[:, :, ::-1]), input_size=(INPUT, INPUT))
        found = []
        for (left, top, right, bottom, score), five in zip(boxes.tolist(), points, strict=True):
            side = max(right - left, bottom - top) * scale * SIDE
            face = Face((left + right) / 2 * scale, (top + bottom) / 2 * scale + LOWER * side, side, score)
            found.append((face, five.astype(np.float64) * scale))
        return sorted(found, key=lambda one: -one[0].side)


@cache
def insightface_detector(
    model: Literal["buffalo_l", "scrfd_500m"], min_detection: float, min_presence: float
) -> InsightFaceDetector:
    """The detector of this process. Raises MissingWeightsError."""
    return InsightFaceDetector(model, min_detection, detector(min_detection, min_presence))


def finder_of(config: FaceCropConfig) -> Detector | InsightFaceDetector:
    """The configured detector. Raises MissingWeightsError."""
    if config.backend == "insightface":
        return insightface_detector(config.insightface, config.min_detection, config.min_presence)
    return detector(config.min_detection, config.min_presence)


def weights_of(config: FaceCropConfig) -> list[str]:
    """What identifies the weights that the configured backends need. Raises MissingWeightsError, WeightsError."""
    needed: list[str] = [config.insightface] if config.backend == "insightface" else []
    needed += ["face_landmarker"] if config.landmarks == "landmarker" else []
    return [weights.digest(name) for name in needed]
