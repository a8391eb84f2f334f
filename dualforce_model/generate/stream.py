"""The generator: samples of sound in as they come, pictures out as they are ready. Offline is this, run to the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dualforce_model.diffusion import ScheduleConfig, frame_schedule, generator_for, integrate, normal
from dualforce_model.errors import BadInput
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.talker import Talker
from dualforce_model.model import Conditions
from dualforce_model.timeline import (
    AUDIO_RATE,
    FPS,
    SAMPLES_PER_FRAME,
    STRIDE,
    audio_count,
    audio_heard,
    latent_count,
    raw_range,
    sample_of_raw,
)


@dataclass(frozen=True)
class Branches:
    """Rows of the batch in which one frame is denoised: with all conditions, then without each that is guided."""

    dropped: tuple[str, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, config: GenerateConfig) -> Branches:
        """Only what is guided gets a row: a scale of 1 costs nothing."""
        wanted = {"audio": config.guidance_audio, "reference": config.guidance_reference}
        guided = {name: scale for name, scale in wanted.items() if scale != 1.0}
        return cls(tuple(guided), tuple(guided.values()))

    @property
    def rows(self) -> int:
        return 1 + len(self.dropped)

    def drop(self, condition: str, device: torch.device) -> Tensor:
        """[rows] True in the row that goes without `condition`."""
        return torch.tensor([False, *(name == condition for name in self.dropped)], device=device)

    def combine(self, velocity: Tensor) -> Tensor:
        """Velocity [rows, ...] to the guided one [1, ...]: v + sum over c of (scale_c - 1)(v - v without c)."""
        whole = velocity[:1]
        for row, scale in enumerate(self.scales, 1):
            whole = whole + (scale - 1) * (velocity[:1] - velocity[row : row + 1])
        return whole


class Stream:
    """One picture that talks.

        stream = Stream(talker, picture, config)
        for chunk in microphone:                  # float32 [n] at 16 kHz, any n
            for frame in stream.push(chunk): ...  # uint8 [size,size,3] RGB, 25 per second
        for frame in stream.finish(): ...         # the rest

    A latent's frames come out once the sound up to `latency_s` after them is in. Memory does not grow with length.
    The pictures depend on the samples, not on the pieces in which they came.
    """

    def __init__(self, talker: Talker, picture: np.ndarray, config: GenerateConfig | None = None):
        self.talker, self.config = talker, config or GenerateConfig()
        self.frames = 0  # given out so far
        self.samples = 0  # taken in so far
        self._finished = False
        model, device = talker.model, talker.device
        self._branches = Branches.of(self.config)
        self._schedule = _schedule(talker, self.config)
        self._paint = talker.painter()
        self._ear, self._heard, self._first = talker.ear(), np.zeros((0, model.config.audio_dim), np.float32), 0
        rows = self._branches.rows
        conditions = Conditions(
            reference=talker.look(picture).expand(rows, -1, -1, -1),
            drop_audio=self._branches.drop("audio", device),
            drop_reference=self._branches.drop("reference", device),
        )
        window = self.config.window or talker.frames
        with torch.inference_mode():
            self._cache = model.new_cache(conditions, (talker.cells, talker.cells), rows, window)

    @property
    def latency_s(self) -> float:
        """Sound that must be in beyond the last frame of a latent before that latent is drawn."""
        heard = audio_heard(1, 1, 0, self.talker.model.config.audio_lookahead)
        return heard.stop / AUDIO_RATE - raw_range(1).stop / FPS + self.talker.ear_delay_s

    def push(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Take samples float32 [n]; yield the frames that are ready now. Raises BadInput bad_audio."""
        if self._finished:
            raise ValueError("the stream was finished; start another")
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise BadInput("bad_audio", f"expected finite samples [n], got {samples.shape}")
        self.samples += len(samples)
        self._listen(self._ear.push(samples))
        return self._ready()

    def finish(self) -> Iterator[np.ndarray]:
        """No more sound: yield the rest. The last frame is filled up with silence. Raises BadInput empty_audio."""
        if not self.samples:
            raise BadInput("empty_audio", "no samples came in; there is nothing to say")
        self._finished = True
        self._listen(self._ear.push(np.zeros(sample_of_raw(self.length) - self.samples, np.float32)))
        self._listen(self._ear.finish())
        return self._rest()

    @property
    def length(self) -> int:
        """Raw frames that the sound taken in so far fills, the last one perhaps in part."""
        return -(-self.samples // SAMPLES_PER_FRAME)

    def _listen(self, features: np.ndarray) -> None:
        self._heard = np.concatenate([self._heard, self.talker.standardised(features)])

    def _ready(self) -> Iterator[np.ndarray]:
        model = self.talker.model.config
        while self._first + len(self._heard) >= audio_heard(self._cache.latent, 1, 0, model.audio_lookahead).stop:
            yield from self._give(self._draw())

    def _rest(self) -> Iterator[np.ndarray]:
        # a latent that the sound fills only in part is drawn whole, and its last frames are left out
        latents = latent_count(self.length + STRIDE - 1)
        while self._cache.latent < latents:
            yield from self._give(self._draw()[: self.length - self.frames])

    def _give(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        for frame in frames:
            self.frames += 1
            yield frame

    @torch.inference_mode()
    def _draw(self) -> np.ndarray:
        """Denoise the next latent; its pictures uint8 [1 or 4, size, size, 3]."""
        talker, cache, rows = self.talker, self._cache, self._branches.rows
        model, latent = talker.model, self._cache.latent
        audio, valid = (torch.from_numpy(x).to(talker.device).expand(rows, *x.shape) for x in self._sound(latent))
        model.begin_frame(cache, audio, valid)
        noise = generator_for("generate", self.config.seed, latent)
        video = normal((1, model.config.latent_channels, 1, talker.cells, talker.cells), noise, talker.device)
        struct = None
        if model.struct is not None:
            struct = normal((1, 1, STRIDE, model.config.struct_dim), noise, talker.device) * talker.sigma_s_max

        def velocity_of(
            video: Tensor, struct: Tensor | None, sigma_video: Tensor, sigma_struct: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            struct = None if struct is None else _rows(struct, rows)
            sigma_struct = None if sigma_struct is None else _rows(sigma_struct, rows)
            found = model.denoise_frame(cache, _rows(video, rows), struct, _rows(sigma_video, rows), sigma_struct)
            combine = self._branches.combine
            return combine(found.video), None if found.struct is None else combine(found.struct)

        sigma_video, sigma_struct = self._schedule
        given = (sigma_video, None if struct is None else sigma_struct)
        video, struct = integrate(velocity_of, video, struct, *given, order=self.config.order)
        model.commit_frame(cache, _rows(video, rows), None if struct is None else _rows(struct, rows))
        return self._paint(video[0, :, 0].cpu().numpy(), latent)

    def _sound(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """What latent `latent` hears: features [span, A], and which of them exist [span]. Forgets what nobody needs."""
        config = self.talker.model.config
        wanted = audio_heard(latent, 1, config.audio_left, config.audio_lookahead)
        forgotten = max(0, wanted.start - self._first)
        self._heard, self._first = self._heard[forgotten:], self._first + forgotten
        audio = np.zeros((len(wanted), config.audio_dim), np.float32)
        stop = self._first + len(self._heard)
        if self._finished:
            stop = min(stop, audio_count(self.length))
        first, last = max(wanted.start, self._first), min(wanted.stop, stop)
        held = slice(first - wanted.start, max(first, last) - wanted.start)
        audio[held] = self._heard[first - self._first : max(first, last) - self._first]
        valid = np.zeros(len(wanted), bool)
        valid[held] = True
        return audio, valid


def _schedule(talker: Talker, config: GenerateConfig) -> tuple[Tensor, Tensor]:
    """Noise levels [S+1,1,1] of video and struct."""
    choice = ScheduleConfig(
        steps=config.steps,
        lead=config.struct_lead,
        shift=config.shift,
        order=config.order,
        sigma_s_max=talker.sigma_s_max,
    )
    video, struct = (level.to(talker.device)[:, None, None] for level in frame_schedule(choice))
    return video, struct


def _rows(x: Tensor, rows: int) -> Tensor:
    return x.expand(rows, *x.shape[1:])
