"""Reference latents: single-image latents of a clip's first frame and of sharp frontal frames from the rest of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from dualforce_model.config import ConfigError
from dualforce_model.errors import Rejected
from dualforce_model.features import codec, head, wan_vae

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = f"1+codec{codec.VERSION}"

FRONTAL_MARGIN = np.radians(5)  # heads turned this much further than the most frontal one of the part still compete


@dataclass(frozen=True)
class ReferenceConfig:
    """`count` pictures in all (K): the first frame and K-1 more. The backend must be that of the video latents."""

    backend: Literal["block_dct", "wan_vae"] = "block_dct"
    count: int = 4  # pictures per clip: the first frame and the best others
    wan_vae: wan_vae.WanVaeConfig = field(default_factory=wan_vae.WanVaeConfig)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count must be >= 1, got {self.count}")


def choose(track: head.HeadTrack, sharpness: np.ndarray, count: int) -> np.ndarray:
    """`count` raw frames: the first, and the sharpest frontal one of each of count-1 successive parts with a face.

    `sharpness` [T] is any measure that grows with it. Raises Rejected few_faces when there are too few frames.
    """
    seen = 1 + np.flatnonzero(track.valid[1:])
    if len(seen) < count - 1:
        raise Rejected(
            "few_faces",
            f"{len(seen)} frames after the first show a face, but reference.count = {count} needs {count - 1} of them",
        )
    turned = np.arccos(np.clip(track.rotation[:, 2, 2], -1, 1))  # between the nose's direction and the camera's
    chosen = [0]
    for part in np.array_split(seen, count - 1) if count > 1 else []:
        frontal = part[turned[part] <= turned[part].min() + FRONTAL_MARGIN]
        chosen.append(int(frontal[np.argmax(sharpness[frontal])]))
    return np.array(chosen, np.int64)


def extract(clip: Clip, config: ReferenceConfig) -> dict[str, np.ndarray]:
    """`{"latents": [K,16,h,w] float16, "frames": [K] int64}`: the latents and the raw frames that they show."""
    chosen = choose(head.head_of(clip), clip.read_landmarks()["sharpness"], config.count)
    upto = zip(range(chosen[-1] + 1), clip.frames(), strict=False)  # nothing after the last one is decoded
    wanted = (frame for index, frame in upto if index in chosen)
    if config.backend == "wan_vae":
        latents = [wan_vae.encode_still(frame, config.wan_vae) for frame in wanted]
    else:
        latents = [codec.encode_still(frame) for frame in wanted]
    return {"latents": np.stack(latents), "frames": chosen}
