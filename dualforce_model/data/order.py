"""The order of training windows: a pure function of (seed, epoch), so a position in it is all that a resume needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class WindowOrder:
    """An endless sequence of windows (clip index, first latent), epoch after epoch.

    In one epoch a clip of L latents gives max(1, L // frames) windows, `first_share` of which (drawn one by one) start
    at latent 0, where every generated clip starts too; the others start anywhere. Clips shorter than `frames` give
    their whole length.
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

    @cached_property
    def epoch_length(self) -> int:
        """Windows in one epoch."""
        return sum(max(1, n // self.frames) for n in self.latents)

    def window(self, position: int) -> tuple[int, int]:
        """(clip index, first latent) at a position of the endless sequence."""
        epoch, place = divmod(position, self.epoch_length)
        if epoch not in self._epochs:
            self._epochs.clear()
            self._epochs[epoch] = _epoch(self, epoch)
        clip, start = self._epochs[epoch][place]
        return int(clip), int(start)

    @cached_property
    def _epochs(self) -> dict[int, np.ndarray]:
        """The epoch that was asked for last."""
        return {}

    def next_in_epoch(self, position: int, tries: int) -> int:
        """Position that stands in for an unreadable window after `tries` failures: onwards, around the same epoch."""
        epoch, place = divmod(position, self.epoch_length)
        return epoch * self.epoch_length + (place + tries) % self.epoch_length


def _epoch(order: WindowOrder, epoch: int) -> np.ndarray:
    """[windows, 2] (clip, start) in sampling order."""
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([order.seed, epoch])))
    count = [max(1, n // order.frames) for n in order.latents]
    clips = np.repeat(np.arange(len(order.latents)), count)
    last = np.maximum(0, np.asarray(order.latents)[clips] - order.frames)
    starts = draw.integers(0, last + 1)
    starts[draw.random(len(clips)) < order.first_share] = 0
    return np.stack([clips, starts], axis=1)[draw.permutation(len(clips))]


class Place(NamedTuple):
    """A window's place: which length bucket, and where in that bucket's own endless order."""

    bucket: int
    position: int


@dataclass(frozen=True)
class BatchOrder:
    """Which windows make the global batch of each optimiser step, on any number of processes.

    Clips are sorted into `buckets`, pairs (latents, windows per step) that grow in length: each clip belongs to the
    longest that it fills, the shortest takes the rest. A step takes windows of one bucket, so there are as many shapes
    as buckets and nothing is compiled anew. In a round of steps each bucket comes as often as its windows ask for,
    shuffled by (seed, round); within a bucket, windows follow its own `WindowOrder`, none dropped, none twice an epoch.
    """

    latents: tuple[int, ...]  # of each clip
    buckets: tuple[tuple[int, int], ...]
    seed: int
    first_share: float = 0.25

    @cached_property
    def clips(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each bucket's clips; buckets that no clip fills are empty."""
        members: list[list[int]] = [[] for _ in self.buckets]
        for clip, length in enumerate(self.latents):
            fits = [n for n, (frames, _) in enumerate(self.buckets) if frames <= length]
            members[max(fits, default=0)].append(clip)
        return tuple(map(tuple, members))

    @cached_property
    def orders(self) -> tuple[WindowOrder | None, ...]:
        """The window order of each bucket, None where it is empty; its clip indices count within the bucket."""
        return tuple(
            WindowOrder(tuple(self.latents[c] for c in clips), frames, self.seed + n, self.first_share)
            if clips
            else None
            for n, ((frames, _), clips) in enumerate(zip(self.buckets, self.clips, strict=True))
        )

    @cached_property
    def steps_per_round(self) -> tuple[int, ...]:
        """Steps of each bucket in a round: its windows of one epoch in batches, at least one."""
        return tuple(
            0 if order is None else max(1, round(order.epoch_length / batch))
            for order, (_, batch) in zip(self.orders, self.buckets, strict=True)
        )

    def batch(self, step: int) -> list[Place]:
        """The global batch of optimiser step `step` (from 0)."""
        turn, place = divmod(step, sum(self.steps_per_round))
        if turn not in self._rounds:
            self._rounds.clear()
            self._rounds[turn] = _round(self, turn)
        bucket, before = (int(n) for n in self._rounds[turn][place])
        size = self.buckets[bucket][1]
        first = (turn * self.steps_per_round[bucket] + before) * size
        return [Place(bucket, position) for position in range(first, first + size)]

    @cached_property
    def _rounds(self) -> dict[int, np.ndarray]:
        """The round that was asked for last."""
        return {}

    def share(self, step: int, rank: int = 0, world: int = 1) -> list[Place]:
        """What one of `world` processes takes of it: its slice, so another number of them sees the same batches."""
        whole = self.batch(step)
        if len(whole) % world:
            raise ValueError(f"a global batch of {len(whole)} windows can't be shared evenly by {world} processes")
        size = len(whole) // world
        return whole[rank * size : (rank + 1) * size]


def _round(order: BatchOrder, turn: int) -> np.ndarray:
    """[steps, 2] (bucket, steps of that bucket before it in the round)."""
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([order.seed, turn, 2])))
    buckets = draw.permutation(np.repeat(np.arange(len(order.buckets)), order.steps_per_round))
    before = np.zeros_like(buckets)
    for bucket in range(len(order.buckets)):
        mine = buckets == bucket
        before[mine] = np.arange(mine.sum())
    return np.stack([buckets, before], axis=1)


def shares(order: BatchOrder, steps: range, rank: int, world: int, micro: int = 1) -> Iterator[list[Place]]:
    """The batches that a loader of rank `rank` makes, step after step; each step's share in `micro` equal pieces."""
    for step in steps:
        share = order.share(step, rank, world)
        if len(share) % micro:
            raise ValueError(f"{len(share)} windows of one process can't be split into {micro} equal batches")
        size = len(share) // micro
        yield from (share[i : i + size] for i in range(0, len(share), size))
