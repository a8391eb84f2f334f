"""The order of training windows: a pure function of (seed, epoch), so a position in it is all that a resume needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class WindowOrder:
    """An endless sequence of windows (clip index, first latent), epoch after epoch.

    In one epoch a clip of L latents gives max(1, L // frames) windows, `first_share` of which (drawn one by one) start
    at latent 0, where every generated clip starts too; the others start anywhere. Clips shorter than `frames` give
    their whole length. Optimiser step s (from 0) takes positions [s * batch, (s + 1) * batch), whatever the number of
    processes; each of them takes its slice of that, so another number of processes sees the same global batches.
    """

    latents: tuple[int, ...]  # of each clip
    frames: int  # latents in a window
    seed: int
    first_share: float = 0.25

    def __post_init__(self) -> None:
        if not self.latents or min(self.latents) < 1:
            raise ValueError(f"every clip needs at least one latent, got {self.latents[:8]}")
        if self.frames < 1:
            raise ValueError(f"a window holds at least one latent, got {self.frames}")

    @property
    def epoch_length(self) -> int:
        """Windows in one epoch."""
        return sum(max(1, n // self.frames) for n in self.latents)

    def window(self, position: int) -> tuple[int, int]:
        """(clip index, first latent) at a position of the endless sequence."""
        epoch, place = divmod(position, self.epoch_length)
        clip, start = _epoch(self, epoch)[place]
        return int(clip), int(start)

    def next_in_epoch(self, position: int, tries: int) -> int:
        """Position that stands in for an unreadable window after `tries` failures: onwards, around the same epoch."""
        epoch, place = divmod(position, self.epoch_length)
        return epoch * self.epoch_length + (place + tries) % self.epoch_length

    def positions(self, step: int, batch: int, rank: int = 0, world: int = 1) -> range:
        """Positions of this rank in the global batch of optimiser step `step`."""
        if batch % world:
            raise ValueError(f"a global batch of {batch} windows can't be shared evenly by {world} processes")
        share = batch // world
        first = step * batch + rank * share
        return range(first, first + share)


@lru_cache(maxsize=4)
def _epoch(order: WindowOrder, epoch: int) -> np.ndarray:
    """[windows, 2] (clip, start) in sampling order."""
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([order.seed, epoch])))
    count = [max(1, n // order.frames) for n in order.latents]
    clips = np.repeat(np.arange(len(order.latents)), count)
    last = np.maximum(0, np.asarray(order.latents)[clips] - order.frames)
    starts = draw.integers(0, last + 1)
    starts[draw.random(len(clips)) < order.first_share] = 0
    return np.stack([clips, starts], axis=1)[draw.permutation(len(clips))]
