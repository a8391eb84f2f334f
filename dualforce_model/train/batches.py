"""Batches of training windows for one process: worker processes read ahead, the order is that of `BatchOrder`."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from dualforce_model.configs.shape import ModelConfig
from dualforce_model.data import BatchOrder, Clip, Dataset, Place, Sample, WindowReader, Windows, collate
from dualforce_model.data.order import shares
from dualforce_model.train.config import TrainConfig

AHEAD = 4  # batches that each worker has ready


class Batches:
    """What a DataLoader wants of a batch sampler: the same batches each time it is asked."""

    def __init__(self, order: BatchOrder, steps: range, rank: int, world: int, micro: int):
        self.arguments = (order, steps, rank, world, micro)

    def __iter__(self) -> Iterator[list[Place]]:
        return shares(*self.arguments)


def windows(
    clips: Sequence[Clip],
    card: Any,
    config: TrainConfig,
    shape: ModelConfig,
    seed: int,
    buckets: tuple[tuple[int, int], ...] | None = None,
) -> Windows:
    """The windows of some clips as a training config cuts them, or in other `buckets` (latents, windows per step)."""
    buckets = buckets or ((config.frames, config.batch), *config.buckets)
    order = BatchOrder(tuple(clip.latents for clip in clips), buckets, seed, config.first_share)
    readers = [WindowReader(card, frames, shape.audio_left, shape.audio_lookahead) for frames, _ in buckets]
    return Windows(clips, order, readers)


def _leave_orders_to_the_training(_worker: int) -> None:
    """Who preempts a job tells all its processes to end. The training needs its workers until it has saved, and ends them
    then; when it is killed they notice by themselves.
    """
    for order in (signal.SIGTERM, signal.SIGINT):
        signal.signal(order, signal.SIG_IGN)


def loader(
    dataset: Dataset,
    config: TrainConfig,
    shape: ModelConfig,
    steps: range,
    rank: int = 0,
    world: int = 1,
    micro: int = 1,
    pin: bool = False,
) -> DataLoader[Sample]:
    """The share of data-parallel process `rank` of `world` in the global batches of `steps`, `micro` batches to a step.

    A step's batches hold windows of one length. Raises ValueError when a batch can't be shared evenly.
    """
    found = windows(dataset.clips["train"], dataset.card, config, shape, config.seed)
    options: dict[str, Any] = {"prefetch_factor": AHEAD} if config.workers else {}
    return DataLoader(
        found,
        batch_sampler=Batches(found.order, steps, rank, world, micro),  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=config.workers,
        pin_memory=pin,
        worker_init_fn=_leave_orders_to_the_training,
        generator=torch.Generator(),  # its own, so that beginning again moves no state that checkpoints hold
        **options,
    )
