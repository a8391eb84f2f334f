"""A checkpoint made ready to talk: model, statistics, codec and ear of the dataset that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from dualforce_model.features import FEATURES, codec, hubert, wan_vae
from dualforce_model.features.audio_features import MARGIN, AudioFeaturesConfig, LogMel
from dualforce_model.features.hubert import HubertStream
from dualforce_model.features.video_latents import VideoLatentsConfig
from dualforce_model.model import DualForce
from dualforce_model.model.files import WeightsError, from_pretrained
from dualforce_model.timeline import AUDIO_RATE, SAMPLE_RATE
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
            section: Any = strict.build(here.config, made_by["config"])
            for what, mine in (("version", here.version_of(section)), ("weights", here.weights_of(section))):
                if made_by.get(what) != mine:
                    raise BadInput(
                        "foreign_checkpoint",
                        f"{folder}: trained on {name} of {what} {made_by.get(what)!r}, here is {mine!r}",
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
        return cls(model, card, config.frames, config.levels.sigma_s_max, where)

    @property
    def size(self) -> int:
        """Width and height of the pictures, pixels."""
        return int(self.card["size"])

    @property
    def cells(self) -> int:
        """Latent cells per side."""
        return int(self.card["latent_size"])

    @property
    def _hears(self) -> AudioFeaturesConfig:
        return strict.build(AudioFeaturesConfig, self.card["features"]["audio_features"]["config"])

    @property
    def _sees(self) -> VideoLatentsConfig:
        return strict.build(VideoLatentsConfig, self.card["features"]["video_latents"]["config"])

    def ear(self) -> LogMel | HubertStream:
        """A fresh stream of audio features, the same that training heard."""
        config = self._hears
        if config.backend == "hubert":
            return HubertStream(config.hubert, hubert.load(config.hubert))
        return LogMel(config)

    @property
    def ear_delay_s(self) -> float:
        """Sound that the ear wants beyond the end of a feature before it gives that feature, at most."""
        config = self._hears
        if config.backend == "hubert":
            return (config.hubert.block + config.hubert.right) / AUDIO_RATE + hubert.MARGIN / SAMPLE_RATE
        return MARGIN / SAMPLE_RATE

    def painter(self) -> Callable[[np.ndarray, int], np.ndarray]:
        """A fresh decoder: a latent [16,h,w] and its index, in order, to its pictures uint8 [1 or 4,H,W,3]."""
        config = self._sees
        if config.backend == "wan_vae":
            return wan_vae.painter(config.wan_vae)
        return lambda latent, index: codec.decode_block(latent, still=index == 0)

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
        config = self._sees
        wan = config.backend == "wan_vae"
        latent = wan_vae.encode_still(picture, config.wan_vae) if wan else codec.encode_still(picture)
        return torch.from_numpy(latent.astype(np.float32))[None].to(self.device)
