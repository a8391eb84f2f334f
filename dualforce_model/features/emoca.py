"""FLAME parameters by DECA's or EMOCA's encoders, in the layout of `flame`.

The identity's shape is one vector per clip, the mean of its frames without the outer fifths, number by number: a face
does not change its bones while it speaks, and single bad frames must not move it. The camera is carried from the
network's crop to the clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dualforce_model import weights
from dualforce_model.features import conveyor, face_square, head

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = "1"
WEIGHTS = {"emoca": "emoca", "deca": "deca"}  # backend -> set of weights

SCALE = 1.1 * 1.25  # side of the crop over the mean extent of the outline: DECA's for 68 points
TRIM = 0.2  # share of the frames left out at either end of the mean


@dataclass(frozen=True)
class EmocaConfig:
    """`batch` pictures at a time; `precision` of the network's numbers (tf32: float32 with tensor cores)."""

    batch: int = 64  # frames at a time; more take more memory
    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"


def robust_mean(rows: np.ndarray) -> np.ndarray:
    """Mean [D] float32 of rows [T,D] without the lowest and highest fifth of each column."""
    cut = int(len(rows) * TRIM)
    return np.sort(rows, axis=0)[cut : len(rows) - cut].mean(0, dtype=np.float64).astype(np.float32)


def camera_in_clip(camera: np.ndarray, squares: np.ndarray, size: int) -> np.ndarray:
    """Cameras [T,3] (scale, tx, ty; y up) of crops at `squares` [T,3] as cameras of the clip of `size` pixels.

    In the crop a point stands at s * (p + t); the crop's -1 .. 1 is side / size as wide in the clip and off its centre.
    """
    share = squares[:, 2] / size
    off = (squares[:, :2] * 2 / size - 1) * np.array([1, -1])
    scale = camera[:, 0] * share
    return np.column_stack([scale, camera[:, 1:] + off / scale[:, None]])


def extract(clip: Clip, backend: Literal["emoca", "deca"], config: EmocaConfig) -> dict[str, np.ndarray]:
    """`{"flame": [T,159] float32, "valid": [T,159] bool}`; frames without landmarks hold values, all invalid."""
    return next(extract_many([clip], backend, config)).get()


def extract_many(
    clips: Sequence[Clip], backend: Literal["emoca", "deca"], config: EmocaConfig, readers: int = 1
) -> Iterator[conveyor.Result]:
    """The same for many clips, in order; their pictures share batches."""
    forward = network(backend, config.precision)
    jobs = [partial(_pictures, clip) for clip in clips]
    for clip, result in zip(clips, conveyor.in_batches(jobs, forward, config.batch, readers), strict=True):
        if result.arrays is not None:
            result.arrays = _laid_out(result.arrays, clip)
        yield result


def _squares(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    landmarks, valid = head.landmarks_of(clip)
    head.held(valid)  # raises when there is no face at all
    return face_square.boxed(landmarks[valid], SCALE), valid


def _pictures(clip: Clip) -> Iterable[np.ndarray]:
    """Crops [224,224,3] uint8 of the frames with a face, each around its own face, as the networks were trained."""
    from dualforce_model.features.networks.deca import SIZE

    squares, valid = _squares(clip)
    row = iter(squares)
    for index, frame in enumerate(clip.frames()):
        if valid[index]:
            yield face_square.take(frame, next(row), SIZE)


def _laid_out(rows: dict[str, np.ndarray], clip: Clip) -> dict[str, np.ndarray]:
    from dualforce_model.features import flame as layout

    squares, valid = _squares(clip)
    flame = np.empty((len(squares), layout.DIM), np.float32)
    flame[:, layout.SHAPE] = robust_mean(rows["shape"])
    flame[:, layout.EXPRESSION] = rows["expression"]
    flame[:, layout.POSE], flame[:, layout.JAW] = rows["pose"], rows["jaw"]
    flame[:, layout.CAMERA] = camera_in_clip(rows["camera"].astype(np.float64), squares, int(clip.info["size"]))
    return {"flame": flame[head.held(valid)], "valid": np.repeat(valid[:, None], layout.DIM, 1)}


@cache
def network(backend: Literal["emoca", "deca"], precision: Literal["float32", "tf32", "bfloat16"]) -> conveyor.Forward:
    """From crops [B,224,224,3] uint8 to the arrays of `networks.deca.Coarse`; loaded once per process."""
    from dualforce_model.features.networks import deca
    from dualforce_model.features.networks.device import forward_of

    name = WEIGHTS[backend]
    model: Any = deca.load(weights.locate(name) / weights.named(name).files[0].path)
    return forward_of(model, lambda loaded, pictures: loaded(pictures), precision)
