"""Struct latents by LivePortrait's motion extractor, in the layout of `struct_latents`.

LivePortrait places its keypoints at scale * (canonical @ R + expression) + translation: its offsets are added after the
rotation, in the picture's axes, and its R multiplies from the right. The layout holds the rotation that multiplies from
the left (R transposed) and the offsets as they are, so nothing is lost: see `unpack`. Its translation's z is always 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dualforce_model import weights
from dualforce_model.errors import Rejected
from dualforce_model.features import conveyor, face_square, head

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = "1"
WEIGHTS = "liveportrait"

SCALE, SHIFT = 2.2, -0.1  # of the square around the face: LivePortrait's own for driving videos


@dataclass(frozen=True)
class LivePortraitConfig:
    """`batch` pictures at a time; `precision` of the network's numbers (tf32: float32 with tensor cores)."""

    batch: int = 64  # frames at a time; more take more memory
    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"


def pack(rotation: np.ndarray, expression: np.ndarray, translation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Struct latents [T,72] float32 of LivePortrait's R [T,3,3], exp [T,21,3], t [T,3], scale [T,1]."""
    count = len(rotation)
    columns = np.swapaxes(rotation, 1, 2)[:, :, :2].transpose(0, 2, 1).reshape(count, 6)
    parts = [columns, translation[:, :2], scale.reshape(count, 1), expression.reshape(count, 63)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def unpack(struct: np.ndarray) -> dict[str, np.ndarray]:
    """LivePortrait's R, exp, t, scale from struct latents [T,72], as its motion templates hold them."""
    from dualforce_model.features.struct_latents import OFFSETS, SCALE, TRANSLATION, rotation_of

    shift = np.zeros((len(struct), 3), np.float32)
    shift[:, :2] = struct[:, TRANSLATION]
    return {
        "R": np.swapaxes(rotation_of(struct), 1, 2).astype(np.float32),
        "exp": struct[:, OFFSETS].reshape(-1, 21, 3),
        "t": shift,
        "scale": struct[:, SCALE],
    }


@dataclass(frozen=True)
class Canonical:
    """What LivePortrait's struct latents are relative to: the keypoints [21,3] of a face at rest, and the square (centre x, y,
    side; pixels) of the clip that spans -1 .. 1 in the network's coordinates.
    """

    keypoints: np.ndarray
    square: np.ndarray

    def placed(self, struct: np.ndarray) -> np.ndarray:
        """Where the keypoints stand in the clip: [T,21,2] in pixels, of struct latents [T,72]."""
        motion = unpack(struct.astype(np.float64))
        points = motion["scale"][:, None] * (self.keypoints @ motion["R"] + motion["exp"]) + motion["t"][:, None]
        x, y, side = self.square
        return np.array([x, y]) + points[..., :2] * (side / 2)


def canonical_of(picture: np.ndarray) -> Canonical:
    """Of the face in a cropped picture RGB [size,size,3]. Raises Rejected no_face, MissingWeightsError, WeightsError."""
    import torch

    from dualforce_model.faces.detect import Mesh
    from dualforce_model.features.networks import liveportrait as published

    network = published.load(weights.locate(WEIGHTS)).eval()
    mesh = Mesh(0.5, static=True)
    found = mesh.points(picture)
    mesh.close()
    if found is None:
        raise Rejected("no_face", "no face is found in the cropped picture, so LivePortrait's keypoints have no place")
    square = face_square.upright(found[None] * len(picture), SCALE, SHIFT)[0]
    pixels = torch.from_numpy(face_square.take(picture, square, published.SIZE))
    with torch.inference_mode():
        out = network(pixels.permute(2, 0, 1)[None].float() / 255)
    return Canonical(out["kp"].view(21, 3).double().numpy(), square)


def square_of(landmarks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The one square (centre x, y, side) of a clip: the mean of its frames', as LivePortrait crops driving videos."""
    return face_square.upright(landmarks[valid], SCALE, SHIFT).mean(0)


def extract(clip: Clip, config: LivePortraitConfig) -> dict[str, np.ndarray]:
    """`{"struct": [T,72] float32, "valid": [T] bool}`; frames without landmarks hold the last known motion."""
    return next(extract_many([clip], config)).get()


def extract_many(clips: Sequence[Clip], config: LivePortraitConfig, readers: int = 1) -> Iterator[conveyor.Result]:
    """The same for many clips, in order; their pictures share batches."""
    forward = network(config.precision)
    jobs = [partial(_pictures, clip) for clip in clips]
    for clip, result in zip(clips, conveyor.in_batches(jobs, forward, config.batch, readers), strict=True):
        if result.arrays is not None:
            result.arrays = _held(result.arrays, clip.read_landmarks()["valid"].astype(bool))
        yield result


def _pictures(clip: Clip) -> Iterable[np.ndarray]:
    """Crops [256,256,3] uint8 of the frames with a face."""
    from dualforce_model.features.networks.liveportrait import SIZE

    landmarks, valid = head.landmarks_of(clip)
    head.held(valid)  # raises when there is no face at all
    square = square_of(landmarks, valid)
    for index, frame in enumerate(clip.frames()):
        if valid[index]:
            yield face_square.take(frame, square, SIZE)


def _held(rows: dict[str, np.ndarray], valid: np.ndarray) -> dict[str, np.ndarray]:
    struct = pack(rows["R"], rows["exp"], rows["t"], rows["scale"])
    return {"struct": struct[head.held(valid)], "valid": valid}


@cache
def network(precision: Literal["float32", "tf32", "bfloat16"]) -> conveyor.Forward:
    """From crops [B,256,256,3] uint8 to R [B,3,3], exp [B,63], t [B,3], scale [B,1]; loaded once per process."""
    from dualforce_model.features.networks import liveportrait as published
    from dualforce_model.features.networks.device import forward_of

    def motion(model: Any, pictures: Any) -> dict[str, Any]:
        out = model(pictures)
        angles = [published.degrees(out[name]) for name in ("pitch", "yaw", "roll")]
        return {"R": published.rotation(*angles), "exp": out["exp"], "t": out["t"], "scale": out["scale"]}

    model = published.load(weights.locate(WEIGHTS))
    return forward_of(model, motion, precision)
