"""Log-mel audio features at 50 Hz: raw frame r owns rows 2r and 2r+1. One object serves extraction and streaming."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from dualforce_model import timeline
from dualforce_model.errors import BadInput
from dualforce_model.features import hubert

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = "1"

HOP = timeline.SAMPLE_RATE // timeline.AUDIO_RATE  # 320 samples, the instant that a feature owns
WINDOW = 512  # 32 ms, centred on the hop: see MARGIN
MARGIN = (WINDOW - HOP) // 2  # 96 samples (6 ms) of left context and of look-ahead around the owned hop
BLOCK = timeline.AUDIO_PER_LATENT  # features are always computed in aligned blocks of 8: see LogMel._block
FLOOR = 1e-8  # of the mel power; digital silence, and everything below about -80 dB of full scale, is this
# Mean and standard deviation of the natural logarithm over nine recordings of speech, all bands alike. They
# definition (never measured per clip, which a stream could not do); stats.json carries the dataset's own per band.
LOG_MEAN, LOG_STD = -10.0, 4.5


@dataclass(frozen=True)
class AudioFeaturesConfig:
    """`mels` triangular bands (Slaney's mel scale, equal area) between `low_hz` and `high_hz`."""

    backend: Literal["log_mel", "hubert"] = "log_mel"
    mels: int = 80  # bands of the log-mel spectrum
    low_hz: float = 0.0  # where the lowest band begins
    high_hz: float = 8000.0  # where the highest band ends
    hubert: hubert.HubertConfig = field(default_factory=hubert.HubertConfig)


def mel_bands(config: AudioFeaturesConfig) -> np.ndarray:
    """Weights [WINDOW // 2 + 1, A] float32 of the mel bands on the bins of the Fourier transform."""

    def mel(hz: np.ndarray) -> np.ndarray:  # linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox)
        return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1e-9) / 1000) / np.log(6.4))

    bins = mel(np.arange(WINDOW // 2 + 1) * timeline.SAMPLE_RATE / WINDOW)
    low, high = mel(np.array([config.low_hz, config.high_hz]))
    edges = np.linspace(low, high, config.mels + 2)
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    weights = np.maximum(0, np.minimum(rising, falling))
    empty = np.flatnonzero(weights.sum(0) == 0)
    if empty.size:
        raise ValueError(
            f"{config.mels} mel bands from {config.low_hz:g} to {config.high_hz:g} Hz are too narrow:"
            f" no Fourier bin in {empty.tolist()}"
        )
    return (weights / weights.sum(0)).astype(np.float32)


class LogMel:
    """A stream of samples in, features out, bit for bit the same whatever pieces the samples come in.

    Feature k owns samples 320 k .. 320 k + 319 and sees 96 more on each side; before the clip and after its end there
    is silence. So a feature is complete 96 samples (6 ms) after its own hop: the declared look-ahead.
    """

    def __init__(self, config: AudioFeaturesConfig):
        self._bands = mel_bands(config)
        # symmetric about the middle of the hop, so an impulse is strongest in the feature that owns its sample
        self._window = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
        self._window /= np.sqrt((self._window**2).sum())
        self._samples = np.zeros(MARGIN, np.float32)  # starts at the first sample that block `_next // BLOCK` sees
        self._next = 0  # the next feature to give out

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples [n] float32; return the features [m, A] float32 that are complete now (m may be 0)."""
        self._samples = np.concatenate([self._samples, np.asarray(samples, np.float32)])
        skipped = self._next % BLOCK
        return self._give((len(self._samples) - WINDOW) // HOP + 1 - skipped)

    def finish(self) -> np.ndarray:
        """Silence follows: the features [m, A] of whole hops that were still waiting for their look-ahead."""
        return self.push(np.zeros(MARGIN, np.float32))

    def _give(self, count: int) -> np.ndarray:
        pieces = [np.empty((0, self._bands.shape[1]), np.float32)]
        while count > 0:
            first = self._next % BLOCK
            last = min(BLOCK, first + count)
            pieces.append(self._block()[first:last])
            self._next += last - first
            count -= last - first
            if last == BLOCK:
                self._samples = self._samples[BLOCK * HOP :]
        return np.concatenate(pieces)

    def _block(self) -> np.ndarray:
        """The block of 8 features at the front of the buffer; the incomplete ones among them are not to be used.

        Always 8 rows at fixed places, because a matrix product of another shape may round differently.
        """
        samples = self._samples[: (BLOCK - 1) * HOP + WINDOW]
        samples = np.pad(samples, (0, (BLOCK - 1) * HOP + WINDOW - len(samples)))
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * self._window
        spectrum = np.fft.rfft(frames, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ self._bands
        return ((np.log(np.maximum(power, FLOOR)) - LOG_MEAN) / LOG_STD).astype(np.float32)


def features_of(samples: np.ndarray, config: AudioFeaturesConfig) -> np.ndarray:
    """Features [n // 320, A] float32 of whole audio [n] float32 at 16 kHz: the stream run to its end."""
    stream = LogMel(config)
    second = timeline.SAMPLE_RATE
    pieces = [stream.push(samples[i : i + second]) for i in range(0, len(samples), second)]
    return np.concatenate([*pieces, stream.finish()])


def extract(clip: Clip, config: AudioFeaturesConfig) -> dict[str, np.ndarray]:
    """`{"audio": [2T, A] float32}`. Raises BadInput when the sound is not as long as the picture."""
    samples, frames = clip.audio(), int(clip.info["frames"])
    if len(samples) != timeline.sample_of_raw(frames):
        raise BadInput(
            "audio_length",
            f"{clip.video}: {len(samples)} samples of sound, but {frames} frames need {timeline.sample_of_raw(frames)};"
            " crop the source again",
        )
    if config.backend == "hubert":
        return {"audio": hubert.features_of(samples, config.hubert)}
    return {"audio": features_of(samples, config)}


def width_of(config: AudioFeaturesConfig) -> int:
    """Numbers per feature (A)."""
    return config.hubert.width if config.backend == "hubert" else config.mels
