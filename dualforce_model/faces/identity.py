"""Who it is: ArcFace embeddings of aligned faces, how steady they stay along a clip, and which clips show one person.

Deng et al. 2019, "ArcFace". Two embeddings of one person have a cosine above about 0.4, of two people below 0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dualforce_model import weights

if TYPE_CHECKING:
    from dualforce_model.media import Clip

WEIGHTS = "buffalo_l"
FILE = "w600k_r50.onnx"
SIZE = 112
SAME_PERSON = 0.4  # cosine from which two clips are taken for the same person
FRAMES = 16  # looked at per clip

# The five points of ArcFace's alignment in MediaPipe's mesh: the eyes' middles, the nose's tip, the mouth's corners.
EYES = ((33, 133), (362, 263))
OTHERS = (1, 61, 291)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """ArcFace's points [5,2] of landmarks [478,2+]."""
    eyes = [landmarks[list(eye), :2].mean(0) for eye in EYES]
    return np.stack([*eyes, *landmarks[list(OTHERS), :2]]).astype(np.float64)


class Embedder:
    """Faces to unit vectors. `model`: the onnx file, [N,3,112,112] to [N,512]."""

    def __init__(self, model: str):
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the work is spread over processes
        session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._arcface: Any = ArcFaceONNX(model_file=model, session=session)

    def __call__(self, pictures: list[np.ndarray], landmarks: list[np.ndarray]) -> np.ndarray:
        """Unit vectors [N,512] float32 of the faces at `landmarks` [478,2+] (pixels) in RGB uint8 pictures."""
        from insightface.utils.face_align import norm_crop

        faces = [
            norm_crop(np.ascontiguousarray(picture[:, :, ::-1]), five_points(points), SIZE)
            for picture, points in zip(pictures, landmarks, strict=True)
        ]
        features = self._arcface.get_feat(faces)
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        return (features / np.maximum(norms, 1e-9)).astype(np.float32)


@cache
def embedder() -> Embedder:
    """The process's embedder. Raises MissingWeightsError."""
    return Embedder(str(weights.locate(WEIGHTS) / FILE))


def embed(clip: Clip, embed_faces: Embedder | None = None) -> np.ndarray:
    """Unit vectors [N,512] float32 of up to 16 frames spread over the clip, in order; [0,512] without a face."""
    arrays = clip.read_landmarks()
    seen = np.flatnonzero(arrays["valid"])
    if not len(seen):
        return np.zeros((0, 512), np.float32)
    chosen = set(seen[np.linspace(0, len(seen) - 1, min(FRAMES, len(seen))).round().astype(int)].tolist())
    frames = [(frame, index) for index, frame in enumerate(clip.frames()) if index in chosen]
    return (embed_faces or embedder())([f for f, _ in frames], [arrays["landmarks"][i] for _, i in frames])


def person(embeddings: np.ndarray) -> np.ndarray:
    """The one unit vector [512] of a clip: the mean direction of its frames' [N,512]."""
    mean = embeddings.mean(0)
    return (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)


def consistency(embeddings: np.ndarray) -> float:
    """The lowest cosine of a frame's embedding to the clip's: low when another person, or none, is seen for a while."""
    return float((embeddings @ person(embeddings)).min())


def drift(embeddings: np.ndarray) -> float:
    """How far identity moves from the beginning to the end: 1 - cosine between the first and the last quarter's."""
    quarter = max(1, len(embeddings) // 4)
    return 1 - float(person(embeddings[:quarter]) @ person(embeddings[-quarter:]))


def groups(
    persons: Mapping[str, np.ndarray], known: Mapping[str, str] | None = None, same: float = SAME_PERSON
) -> dict[str, str]:
    """Identity group of each clip: clips are one person's when a chain of them looks alike. Named by the first clip id.

    persons: clip id to unit vector [512]. known: clip id to a name; clips of one name are one person's, whatever they look
    like. Single linkage, because splitting one person over train and test is the error that must not happen.
    """
    names = sorted({*persons, *(known or {})})
    group = {name: name for name in names}

    def top(name: str) -> str:
        while group[name] != name:
            group[name] = group[group[name]]
            name = group[name]
        return name

    def join(one: str, other: str) -> None:
        first, second = sorted((top(one), top(other)))
        group[second] = first

    firsts: dict[str, str] = {}
    for clip, person in sorted((known or {}).items()):
        join(clip, firsts.setdefault(person, clip))
    if seen := [name for name in names if name in persons]:
        vectors = np.stack([persons[name] for name in seen])
        for row, name in enumerate(seen):
            for other in np.flatnonzero(vectors[row + 1 :] @ vectors[row] >= same) + row + 1:
                join(name, seen[other])
    return {name: top(name) for name in names}
