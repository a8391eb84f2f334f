"""Audio features by HuBERT: every block of features is computed from a fixed stretch of sound around it.

HuBERT sees a whole utterance in both directions, which no stream can give it. Here `block` features at a time always
see `left` features of sound before and `right` after it, silence beyond the clip's ends, and is normalised by that
stretch alone. Extraction and streaming run the same stretches in batches of the same shape, so they agree up to rounding.
Look-ahead of a stream: `block` + `right` features (20 ms each).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from dualforce_model import timeline, weights
from dualforce_model.config import ConfigError

VERSION = "1"
WEIGHTS = "hubert_large"

HOP = timeline.SAMPLE_RATE // timeline.AUDIO_RATE  # 320 samples
MARGIN = 40  # HuBERT's convolutions see 400 samples: the feature's own 320 and 40 more on each side


@dataclass(frozen=True)
class HubertConfig:
    """Which of HuBERT's layers, and the stretches of sound.

    layer          0 is what goes into the transformer, 24 the last layer of HuBERT-Large
    layer_weights  instead of one layer, the sum of all (25 of them for HuBERT-Large) with these weights
    width          numbers per feature: 1024 for HuBERT-Large
    block, left, right  in features of 20 ms; a multiple of 8, so that blocks end where latents do
    batch          stretches at a time, in extraction and streaming alike
    """

    layer: int = 24
    layer_weights: tuple[float, ...] = ()
    width: int = 1024
    block: int = 96
    left: int = 144
    right: int = 24
    batch: int = 8
    precision: Literal["float32", "tf32", "bfloat16"] = "tf32"

    def __post_init__(self) -> None:
        if self.block < 1 or self.block % timeline.AUDIO_PER_LATENT:
            raise ConfigError(f"block must be a multiple of {timeline.AUDIO_PER_LATENT}, got {self.block}")
        if min(self.left, self.right, self.layer) < 0 or min(self.batch, self.width) < 1:
            raise ConfigError("left, right and layer must be >= 0, batch and width >= 1")

    @property
    def stretch(self) -> int:
        """Samples of one block's stretch."""
        return HOP * (self.left + self.block + self.right) + 2 * MARGIN


# Stretches [batch, stretch] float32 and where each holds sound [batch, 2] (first sample, one past the last) to a function
# that waits for the features [batch, block, A] float32; so the next batch is put together while the device works.
Network = Callable[[np.ndarray, np.ndarray], Callable[[], np.ndarray]]


class HubertStream:
    """A stream of samples in, features out: the same numbers whatever pieces the samples come in.

    Feature k owns samples 320 k .. 320 k + 319; before the clip and after its end there is silence.
    """

    def __init__(self, config: HubertConfig, network: Network):
        self._config, self._network = config, network
        self._samples = np.zeros(0, np.float32)  # from sample `_first` on
        self._first = self._next = self._end = 0  # `_next`: the next block; `_end`: samples taken

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples [n] float32; return the features [m, A] float32 of all blocks that are complete now."""
        self._take(samples)
        step = self._config.block * HOP
        reach = self._config.right * HOP + MARGIN
        return self._run(max(0, (self._end - reach) // step) - self._next)

    def finish(self) -> np.ndarray:
        """Silence follows: the features [m, A] of the whole hops that are left."""
        whole = self._end // HOP
        blocks = -(-whole // self._config.block)
        given = self._next * self._config.block
        return self._run(blocks - self._next)[: max(0, whole - given)]

    def _take(self, samples: np.ndarray) -> None:
        self._samples = np.concatenate([self._samples, np.asarray(samples, np.float32)])
        self._end += len(samples)

    def _run(self, blocks: int) -> np.ndarray:
        config = self._config
        pieces = [np.empty((0, config.width), np.float32)]
        running: tuple[int, Callable[[], np.ndarray]] | None = None
        while blocks > 0 or running is not None:
            before, running = running, None
            if blocks > 0:
                now = min(blocks, config.batch)
                running = now, self._network(*self._stretches(self._next, now))
                self._next += now
                blocks -= now
            if before is not None:
                count, wait = before
                pieces += list(wait()[:count])
        keep = max(self._first, (self._next * config.block - config.left) * HOP - MARGIN)
        self._samples, self._first = self._samples[keep - self._first :], keep
        return np.concatenate(pieces)

    def _stretches(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The sound around `count` blocks from `first`, and where it is; where the clip has none there is zero."""
        config = self._config
        batch, inside = np.zeros((config.batch, config.stretch), np.float32), np.zeros((config.batch, 2), np.int64)
        for row in range(count):
            begin = ((first + row) * config.block - config.left) * HOP - MARGIN
            low, high = max(begin, 0), min(begin + config.stretch, self._end)
            batch[row, low - begin : high - begin] = self._samples[low - self._first : high - self._first]
            inside[row] = low - begin, high - begin
        return batch, inside


def features_of(samples: np.ndarray, config: HubertConfig, network: Network | None = None) -> np.ndarray:
    """Features [n // 320, A] float32 of whole audio [n] float32 at 16 kHz: the stream run to its end."""
    stream = HubertStream(config, network or load(config))
    return np.concatenate([stream.push(samples), stream.finish()])


@cache
def load(config: HubertConfig) -> Network:
    """The network of `config` on the picked device, once per process. Raises MissingWeightsError, WeightsError."""
    from dualforce_model.features.networks import hubert as published

    return published.network(weights.locate(WEIGHTS), config)
