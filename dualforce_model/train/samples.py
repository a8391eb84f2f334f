"""Pictures on the way: people as they were and as the model draws them now, by the rollout of generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualforce_model import config as strict
from dualforce_model.configs.shape import ModelConfig
from dualforce_model.data import Clip, Dataset, Sample, WindowReader
from dualforce_model.errors import BadInput
from dualforce_model.features import codec, wan_vae
from dualforce_model.features.video_latents import VideoLatentsConfig
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.origin import window_of
from dualforce_model.generate.rollout import Rollout
from dualforce_model.model import DualForce
from dualforce_model.store import publish
from dualforce_model.timeline import AUDIO_PER_LATENT
from dualforce_model.train.config import TrainConfig

FOLDER = "samples"
PEOPLE = 3  # clips in a picture
LATENTS = 8  # of each at least: 1.2 s, so that a mouth has time to move
COLUMNS = 6  # frames of each
Decoder = Callable[[np.ndarray, int], np.ndarray]  # a latent [16,h,w] and its index, in order, to [1 or 4,H,W,3] uint8


class Sampler:
    """Draws the same windows (the first of each of a few clips) from the same noise each time it is asked."""

    def __init__(
        self, config: TrainConfig, dataset: Dataset, shape: ModelConfig, out: Path, say: Callable[[str], None] = print
    ):
        """Of people held out, then of those in training; a clip that can't be read is named and left out.

        Raises MissingWeightsError when the latents' decoder has none.
        """
        self.config, self.card, self.folder = config, dataset.card, out / FOLDER
        held_out = dataset.clips["val"] or dataset.clips["test"]
        clips = _spread(held_out, PEOPLE)
        clips += _spread(dataset.clips["train"], PEOPLE - len(clips))
        reader = WindowReader(dataset.card, max(config.frames, LATENTS), shape.audio_left, shape.audio_lookahead)
        self.samples: list[tuple[Sample, bool]] = []  # and whether the person is held out
        for clip in clips:
            try:
                self.samples.append((reader.read(clip, 0, 0.0), clip in held_out))
            except BadInput as error:
                say(f"clip {clip.clip_id} is left out of the samples: {error}")
        decoder(self.card)  # trouble with it is better met now than after hours

    def write(self, model: DualForce, step: int) -> Path | None:
        """`samples/step-….png`: per person the reference, the original frames, and below them the generated ones.

        None when no clip could be read.
        """
        if not self.samples:
            return None
        device = next(model.parameters()).device
        was = model.training
        model.eval()
        rows = [
            picture_rows(self.card, sample, self._drawn(model, sample, device), held_out)
            for sample, held_out in self.samples
        ]
        model.train(was)
        path = self.folder / f"step-{step:06d}.png"
        from PIL import Image

        with publish(path) as temporary:
            Image.fromarray(np.vstack(rows)).save(temporary)
        return path

    def _drawn(self, model: DualForce, sample: Sample, device: torch.device) -> np.ndarray:
        """Latents [16,F,h,w] generated for the sample's picture and sound."""
        config, few = self.config, self.config.stage == "few_step"
        draw = GenerateConfig(steps=config.few_step.steps, struct_lead=0.0) if few else GenerateConfig(
            steps=config.sample_steps
        )  # fmt: skip
        reference = sample["reference"][None].to(device)
        rollout = Rollout(
            model, draw, window_of(draw, model.config, config.frames), config.levels.sigma_s_max, reference, seeds=[0]
        )
        span = model.config.audio_span
        latents = []
        for j in range(int(sample["frame_valid"].sum())):
            heard = slice(AUDIO_PER_LATENT * j, AUDIO_PER_LATENT * j + span)
            audio, valid = (sample[name][heard][None].to(device) for name in ("audio", "audio_valid"))
            video, _ = rollout.draw(audio, valid)
            latents.append(video[0].float().cpu().numpy())
        return np.concatenate(latents, axis=1)


def decoder(card: Mapping[str, Any]) -> Decoder:
    """A fresh decoder of a dataset's latents. Raises MissingWeightsError."""
    config = strict.build(VideoLatentsConfig, card["features"]["video_latents"]["config"])
    if config.backend == "wan_vae":
        return wan_vae.painter(config.wan_vae)
    return lambda latent, index: codec.decode_block(latent, still=index == 0)


def decoded(card: Mapping[str, Any], latents: np.ndarray) -> np.ndarray:
    """Pictures [T,H,W,3] uint8 of latents [16,F,h,w] from a clip's beginning."""
    decode = decoder(card)
    return np.concatenate([decode(latents[:, j], j) for j in range(latents.shape[1])])


def picture_rows(card: Mapping[str, Any], sample: Sample, drawn: np.ndarray, held_out: bool) -> np.ndarray:
    """RGB [2H, (1 + COLUMNS) W, 3] of one person: reference and originals above, generated frames below."""
    length = int(sample["frame_valid"].sum())
    original, generated = decoded(card, sample["video"][:, :length].numpy()), decoded(card, drawn)
    still = decoded(card, sample["reference"][:, None].numpy())[0]
    at = np.linspace(0, len(original) - 1, COLUMNS).round().astype(int)
    above = np.hstack([still, *original[at]])
    below = np.hstack([_caption(len(still), held_out), *generated[at]])
    return np.vstack([above, below])


def _caption(size: int, held_out: bool) -> np.ndarray:
    """RGB [size,size,3]: what is what, beside the generated frames."""
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (size, size), "white")
    person = "held out" if held_out else "in training"
    ImageDraw.Draw(tile).text((4, 4), f"{person}\n\nabove: reference\nand original\n\nright: generated", "black")
    return np.asarray(tile)


def _spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """A few clips from all over the list, which is in the order of names: seldom twice the same person."""
    at = np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int)
    return [clips[n] for n in at]
