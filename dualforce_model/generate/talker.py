"""A checkpoint made ready to talk: model, statistics, codec and ear of the dataset that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.configs.forcing import DropRates
from dualforce_model.data.dataset import Scale
from dualforce_model.errors import BadInput
from dualforce_model.features import codec, hubert, wan_vae
from dualforce_model.features.audio_features import MARGIN, AudioFeaturesConfig, LogMel
from dualforce_model.features.hubert import HubertStream
from dualforce_model.features.video_latents import VideoLatentsConfig
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.guidance import Branches
from dualforce_model.generate.motion import Motion, slots_of
from dualforce_model.generate.origin import (
    Origin,
    check_guidance,
    check_picture,
    check_struct,
    check_text,
    window_of,
)
from dualforce_model.generate.painter import Painter, at_device
from dualforce_model.generate.rollout import Rollout
from dualforce_model.model import DualForce
from dualforce_model.model.beside import Stream
from dualforce_model.model.files import WeightsError, from_pretrained
from dualforce_model.timeline import AUDIO_RATE, SAMPLE_RATE

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Talker:
    """Everything that a rollout needs, from one checkpoint folder."""

    model: DualForce
    card: Mapping[str, Any]  # of the dataset
    frames: int  # latents of a training window
    sigma_s_max: float  # the highest noise that the struct stream was trained at
    device: torch.device
    drops: DropRates | None = None  # how often training left a condition out; None where nobody knows
    idle: dict[Any, list[Rollout]] = field(default_factory=dict, repr=False)  # made ready, by kind
    room: dict[Any, int] = field(default_factory=dict, repr=False)  # how many are kept

    @classmethod
    def load(
        cls,
        checkpoint: Path | Origin,
        device: torch.device | str | None = None,
        precision: Precision | None = None,
        compiled: bool | None = None,
    ) -> Talker:
        """The averaged weights of a checkpoint on a device: the first GPU if there is one.

        precision and compiled: as in `GenerateConfig`. Raises BadInput as `Origin.read`, and no_device.
        """
        origin = checkpoint if isinstance(checkpoint, Origin) else Origin.read(checkpoint)
        where = device_of(device)
        if where.type == "cuda":
            torch.cuda.set_device(where)  # streams and events are made on the current one
        try:
            model = from_pretrained(origin.folder / "ema", device=where)
        except (WeightsError, ConfigError) as error:
            raise BadInput("foreign_checkpoint", f"{origin.folder}: {error}") from error
        on_gpu = where.type == "cuda"
        ready(model, precision or ("bfloat16" if on_gpu else "float32"), on_gpu if compiled is None else compiled)
        train = origin.train
        return cls(model, origin.card, train.frames, train.levels.sigma_s_max, where, train.drops)

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

    def painter(self) -> Painter:
        """A fresh decoder."""
        config = self._sees
        if config.backend == "wan_vae":
            return Painter(wan_vae.painter(config.wan_vae), self.device, self._coders)
        return Painter(lambda latent, index: codec.decode_block(latent, still=index == 0), self.device)

    @property
    def _coders(self) -> ThreadPoolExecutor | None:
        """The thread in which the Wan VAE runs on a GPU; None where whoever calls computes by itself."""
        return at_device(self.device) if self.device.type == "cuda" else None

    def standardised(self, audio: np.ndarray) -> np.ndarray:
        """Audio features [n,A] as the model reads them."""
        return Scale.of(self.card, "audio").apply(audio)

    def slots(self, motion: Motion) -> tuple[np.ndarray, np.ndarray]:
        """Struct latents [F,4,72] as the model reads them, and which latents are known [F]. Raises BadInput no_struct."""
        check_struct(self.model.config)
        return slots_of(Motion(Scale.of(self.card, "struct").apply(motion.struct), motion.valid))

    def motion_of(self, struct: np.ndarray) -> np.ndarray:
        """Struct latents [...,72] as extracted, from those that the model gives."""
        return Scale.of(self.card, "struct").invert(struct)

    def look(self, picture: np.ndarray) -> Tensor:
        """The reference latent [1,16,h,w] of a cropped picture uint8 [size,size,3]. Raises BadInput wrong_picture."""
        check_picture(picture, self.size)
        config = self._sees
        if config.backend != "wan_vae":
            latent = codec.encode_still(picture)
        else:
            encode = partial(wan_vae.encode_still, picture, config.wan_vae)
            latent = self._coders.submit(encode).result() if self._coders else encode()
        return torch.from_numpy(latent.astype(np.float32))[None].to(self.device)

    def lend(
        self, config: GenerateConfig, references: Tensor, seeds: Sequence[int], text: np.ndarray | None = None
    ) -> Rollout:
        """A rollout at its beginning: one that is idle (`prepare`), or a new one.

        Raises BadInput no_text, wrong_text, wrong_window, never_dropped.
        """
        window = window_of(config, self.model.config, self.frames)
        words = self._words(config, text)
        if idle := self.idle.get(_kind(config, len(references), words)):
            rollout = idle.pop()
            rollout.restart(config, references, seeds, words)
            return rollout
        return Rollout(self.model, config, window, self.sigma_s_max, references, seeds, words)

    def take_back(self, rollout: Rollout) -> None:
        """Keep a rollout for the next who wants one like it, where `prepare` made room; otherwise its memory is freed."""
        kind = _kind(rollout.config, len(rollout.seeds), rollout.text)
        kept = self.idle.get(kind, [])
        if len(kept) < self.room.get(kind, 0):
            kept.append(rollout)

    def prepare(self, config: GenerateConfig, rollouts: int = 1, speakers: int = 1) -> None:
        """Have `rollouts` ready, so that the first frame waits for nothing that is compiled or recorded.

        They are kept, with their caches, and used again by every stream without a text that has this config's chunk,
        window and guidance.
        """
        window = window_of(config, self.model.config, self.frames)
        kind = _kind(config, speakers, None)
        self.room[kind] = rollouts
        kept = self.idle.setdefault(kind, [])
        nobody = torch.zeros(speakers, self.model.config.latent_channels, self.cells, self.cells, device=self.device)
        while len(kept) < rollouts:
            kept.append(Rollout(self.model, config, window, self.sigma_s_max, nobody, (0,) * speakers))
        if self.device.type == "cuda":
            self._warm_up(nobody[0])

    def _warm_up(self, latent: Tensor) -> None:
        """See and paint once, a first latent and a later one: what is compiled and tuned there is kept."""
        self.look(np.zeros((self.size, self.size, 3), np.uint8))
        painter = self.painter()
        for index in range(2):
            painter.start(latent, index).result()
        painter.close()

    def _words(self, config: GenerateConfig, text: np.ndarray | None) -> Tensor | None:
        check_guidance(config, self.drops, text is not None)
        check_text(text, self.model.config.text_dim)
        return None if text is None else torch.from_numpy(np.asarray(text, np.float32))


def _kind(config: GenerateConfig, speakers: int, text: Tensor | None) -> Any:
    """What rollouts must share to stand in for each other: what their caches and passes are made for."""
    words = 0 if text is None else len(text)
    return speakers, words, config.chunk, config.window, Branches.of(config, text is not None)


def ready(model: DualForce, precision: Precision, compiled: bool) -> None:
    """Bring a model into the form in which it generates. The noise levels stay in float32: neighbours must stay apart."""
    if precision == "bfloat16":
        levels = [model.video.noise, *([] if model.struct is None else [model.struct.noise])]
        kept = [{name: x.clone() for name, x in part.state_dict().items()} for part in levels]
        model.to(torch.bfloat16)
        for part, state in zip(levels, kept, strict=True):
            part.float().load_state_dict(state)
    model.requires_grad_(False)
    if (device := model.video.embed.weight.device).type == "cuda":
        model.beside = Stream(device)
    if compiled:
        model.compile_steps()


def device_of(name: torch.device | str | None) -> torch.device:
    """The device of that name, or the first GPU if there is one; it is not touched. Raises BadInput no_device."""
    name = str(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise BadInput("no_device", f"{name!r} is no device to generate on: cpu, cuda, cuda:1, ...")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise BadInput("no_device", f"there is no {name}; this machine has {torch.cuda.device_count()} GPUs")
    return torch.device(name)
