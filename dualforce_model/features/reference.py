"""Reference latents: single-image latents of a clip's first frame and of sharp frontal frames from the rest of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dualforce_model.config import ConfigError
from dualforce_model.errors import Rejected
from dualforce_model.features import codec, head

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = f"1+codec{codec.VERSION}"

CANDIDATES = 8  # frames per part of the clip whose sharpness is compared
FRONTAL_MARGIN = np.radians(5)  # heads turned this much further than the most frontal one of the part still compete


@dataclass(frozen=True)
class ReferenceConfig:
    """`count` pictures in all (K): the first frame and K-1 more."""

    backend: Literal["block_dct"] = "block_dct"
    count: int = 4

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count must be >= 1, got {self.count}")


def candidates(track: head.HeadTrack, count: int) -> list[np.ndarray]:
    """For each of `count` successive parts of the frames with a face (the first frame apart), which ones to compare.

    Raises Rejected few_faces when there are not enough frames with a face.
    """
    seen = 1 + np.flatnonzero(track.valid[1:])
    if len(seen) < count:
        raise Rejected(
            "few_faces",
            f"{len(seen)} frames after the first show a face, but reference.count = {count + 1} needs {count} of them",
        )
    turned = np.arccos(np.clip(track.rotation[:, 2, 2], -1, 1))  # between the nose's direction and the camera's
    chosen = []
    for part in np.array_split(seen, count):
        frontal = part[turned[part] <= turned[part].min() + FRONTAL_MARGIN]
        spread = np.linspace(0, len(frontal) - 1, min(CANDIDATES, len(frontal)))
        chosen.append(frontal[np.rint(spread).astype(int)])
    return chosen


def sharpness(frame: np.ndarray, points: np.ndarray) -> float:
    """Variance of the Laplacian of picture [H,W,3] uint8 (green channel) in the box around `points` [n,2] (x, y)."""
    low = np.clip(np.floor(points.min(0)).astype(int), 0, None)
    high = np.ceil(points.max(0)).astype(int)
    green = frame[low[1] : high[1], low[0] : high[0], 1].astype(np.int16)
    if min(green.shape) < 3:
        return 0.0
    middle = green[1:-1, 1:-1]
    laplacian = green[:-2, 1:-1] + green[2:, 1:-1] + green[1:-1, :-2] + green[1:-1, 2:] - 4 * middle
    return float(laplacian.var(dtype=np.float64))


def extract(clip: Clip, config: ReferenceConfig) -> dict[str, np.ndarray]:
    """`{"latents": [K,16,h,w] float16, "frames": [K] int64}`: the latents and the raw frames that they show."""
    points = clip.read_landmarks()["landmarks"][..., :2]
    wanted = candidates(head.head_of(clip), config.count - 1) if config.count > 1 else []
    part_of = {int(frame): part for part, frames in enumerate(wanted) for frame in frames}
    best: dict[int, tuple[float, int, np.ndarray]] = {}
    last = max(part_of, default=0)
    for index, frame in enumerate(clip.frames()):
        if index == 0:
            first = codec.encode_still(frame)
        if index in part_of:
            score, part = sharpness(frame, points[index]), part_of[index]
            if part not in best or score > best[part][0]:
                best[part] = (score, index, frame)
        if index == last:
            break
    chosen = [best[part] for part in range(len(wanted))]
    return {
        "latents": np.stack([first, *(codec.encode_still(frame) for _, _, frame in chosen)]),
        "frames": np.array([0, *(index for _, index, _ in chosen)], np.int64),
    }
