"""A checkpoint made ready to talk: model, statistics, codec and ear of the dataset that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.data.dataset import Scale
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES, codec
from dualforce_model.features.audio_features import AudioFeaturesConfig, LogMel
from dualforce_model.model import DualForce
from dualforce_model.model.files import WeightsError, from_pretrained
from dualforce_model.train.checkpoint import read_json, resolve
from dualforce_model.train.config import TrainConfig

NEEDED = ("video_latents", "audio_features")  # features that generation makes or undoes itself


@dataclass(frozen=True)
class Talker:
    """Everything that a rollout needs, from one checkpoint folder."""

    model: DualForce
    card: Mapping[str, Any]  # of the dataset
    frames: int  # latents of a training window
    sigma_s_max: float  # the highest noise that the struct stream was trained at
    device: torch.device

    @classmethod
    def load(cls, checkpoint: Path, device: torch.device | str | None = None) -> Talker:
        """From a checkpoint folder, or a folder that holds checkpoints (then the newest whole one); averaged weights.

        Raises BadInput: no_checkpoint, damaged_checkpoint, other_format, foreign_checkpoint (parts that don't belong
        together, or features made by another version of their extractor than the one at hand).
        """
        folder = resolve(checkpoint)
        state, card = read_json(folder, "state.json"), read_json(folder, "dataset.json")["card"]
        if state["dataset"] != card["identity"]:
            raise BadInput(
                "foreign_checkpoint",
                f"{folder}: trained on dataset {state['dataset']}, but the statistics are of {card['identity']}",
            )
        for name in NEEDED:
            made_by, here = card["features"][name], FEATURES[name]
            if made_by["version"] != here.version:
                raise BadInput(
                    "foreign_checkpoint",
                    f"{folder}: trained on {name} of version {made_by['version']!r}, here is {here.version!r}",
                )
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            model = from_pretrained(folder / "ema", device=where)
            config = strict.build(TrainConfig, state["config"])
        except (WeightsError, ConfigError) as error:
            raise BadInput("foreign_checkpoint", f"{folder}: {error}") from error
        for name, ours, theirs in (
            ("audio features", model.config.audio_dim, len(card["stats"]["audio"]["mean"])),
            ("struct numbers", model.config.struct_dim, len(card["stats"]["struct"]["mean"])),
        ):
            if ours != theirs:
                raise BadInput(
                    "foreign_checkpoint", f"{folder}: the model reads {ours} {name}, the statistics have {theirs}"
                )
        return cls(model, card, config.frames, float(config.noise.get("sigma_s_max", 1.0)), where)

    @property
    def size(self) -> int:
        """Width and height of the pictures, pixels."""
        return int(self.card["size"])

    @property
    def cells(self) -> int:
        """Latent cells per side."""
        return int(self.card["latent_size"])

    def ear(self) -> LogMel:
        """A fresh stream of audio features, the same that training heard."""
        return LogMel(strict.build(AudioFeaturesConfig, self.card["features"]["audio_features"]["config"]))

    def standardised(self, audio: np.ndarray) -> np.ndarray:
        """Audio features [n,A] as the model reads them."""
        return Scale.of(self.card, "audio").apply(audio)

    def look(self, picture: np.ndarray) -> Tensor:
        """The reference latent [1,16,h,w] of a cropped picture uint8 [size,size,3]. Raises BadInput wrong_picture."""
        if picture.shape != (self.size, self.size, 3) or picture.dtype != np.uint8:
            raise BadInput(
                "wrong_picture",
                f"expected a cropped face of {self.size}x{self.size} RGB bytes, got {picture.dtype} {picture.shape}",
            )
        return torch.from_numpy(codec.encode_still(picture).astype(np.float32))[None].to(self.device)
