"""One speaker's sound on its way to the model: samples in as they come, windows of audio features out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.model import ModelConfig
from dualforce_model.timeline import SAMPLES_PER_FRAME, STRIDE, audio_count, audio_heard, latent_count, sample_of_raw


class Ear(Protocol):
    """A stream of audio features (`features.audio_features.LogMel`, `features.hubert.HubertStream`)."""

    def push(self, samples: np.ndarray) -> np.ndarray: ...

    def finish(self) -> np.ndarray: ...


class Voice:
    """Keeps the features that coming latents hear, and forgets the others: memory does not grow with length."""

    def __init__(self, ear: Ear, model: ModelConfig, standardised: Callable[[np.ndarray], np.ndarray]):
        self.samples = 0  # taken in so far
        self.finished = False
        self._ear, self._model, self._standardised = ear, model, standardised
        self._heard, self._first = np.zeros((0, model.audio_dim), np.float32), 0  # features from `_first` on

    @property
    def length(self) -> int:
        """Raw frames that the sound taken in so far fills, the last one perhaps in part."""
        return -(-self.samples // SAMPLES_PER_FRAME)

    @property
    def latents(self) -> int:
        """Latents that show these frames, the last one perhaps in part."""
        return latent_count(self.length + STRIDE - 1)

    @property
    def held(self) -> int:
        """Features in memory."""
        return len(self._heard)

    def push(self, samples: np.ndarray) -> None:
        """Take samples float32 [n]. Raises BadInput bad_audio; ValueError when it was finished."""
        if self.finished:
            raise ValueError("the sound was finished; start another stream")
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise BadInput(
                "bad_audio",
                f"expected finite float samples [n], -1 to 1, got {samples.dtype} {samples.shape}; divide int16 by 32768",
            )
        samples = samples.astype(np.float32)
        self.samples += len(samples)
        self._keep(self._ear.push(samples))

    def finish(self) -> None:
        """No more sound. The last frame is filled up with silence. Raises BadInput empty_audio."""
        if self.finished:
            return
        if not self.samples:
            raise BadInput("empty_audio", "no samples came in; there is nothing to say")
        self.finished = True
        self._keep(self._ear.push(np.zeros(sample_of_raw(self.length) - self.samples, np.float32)))
        self._keep(self._ear.finish())

    def _keep(self, features: np.ndarray) -> None:
        self._heard = np.concatenate([self._heard, self._standardised(features)])

    def covers(self, latent: int, count: int) -> bool:
        """Whether all that `count` latents from `latent` hear is in, or will never come."""
        stop = audio_heard(latent, count, 0, self._model.audio_lookahead).stop
        return self.finished or self._first + len(self._heard) >= stop

    def window(self, latent: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """What `count` latents from `latent` hear: features [span,A], and which of them exist [span]. Forgets older ones."""
        wanted = audio_heard(latent, count, self._model.audio_left, self._model.audio_lookahead)
        forgotten = min(max(0, wanted.start - self._first), len(self._heard))
        self._heard, self._first = self._heard[forgotten:], self._first + forgotten
        audio = np.zeros((len(wanted), self._model.audio_dim), np.float32)
        valid = np.zeros(len(wanted), bool)
        stop = self._first + len(self._heard)
        if self.finished:
            stop = min(stop, audio_count(self.length))
        first, last = max(wanted.start, self._first), min(wanted.stop, stop)
        if first < last:
            held = slice(first - wanted.start, last - wanted.start)
            audio[held] = self._heard[first - self._first : last - self._first]
            valid[held] = True
        return audio, valid
