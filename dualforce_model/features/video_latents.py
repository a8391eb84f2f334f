"""Video latents: 16 numbers per 8x8 pixel cell and four raw frames, one causal pass over the whole clip.

The block-DCT backend is `features.codec`. Its latents are stored normalised (its constants bring them to about unit
variance), as every backend's are: the model needs to know no backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from dualforce_model import timeline
from dualforce_model.features import codec, wan_vae

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = codec.VERSION


@dataclass(frozen=True)
class VideoLatentsConfig:
    """Which backend encodes the pictures; `wan_vae` needs the weights of that name."""

    backend: Literal["block_dct", "wan_vae"] = "block_dct"
    wan_vae: wan_vae.WanVaeConfig = field(default_factory=wan_vae.WanVaeConfig)


def extract(clip: Clip, config: VideoLatentsConfig) -> dict[str, np.ndarray]:
    """`{"latents": [16,F,h,w] float16}`; up to three last raw frames fill no latent. One picture is held at a time."""
    if config.backend == "wan_vae":
        return wan_vae.extract(clip, config.wan_vae)
    cells = int(clip.info["size"]) // timeline.SPATIAL
    latents = np.empty((len(codec.CHANNELS), timeline.latent_count(clip.frame_count), cells, cells), np.float16)
    for index, latent in enumerate(codec.encode_stream(clip.frames())):
        latents[:, index] = latent
    return {"latents": latents}
