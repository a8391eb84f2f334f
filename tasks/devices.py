"""Which stages compute on a GPU, which GPUs this machine has for them, and how many processes share them."""

from __future__ import annotations

import os

from dualforce_model.features import FEATURES, Published
from dualforce_model.train.devices import named
from tasks.config import TRAININGS, RunConfig


def slots(config: RunConfig, stage: str) -> int:
    """How many GPUs a shard of the stage may use at a time; 0 when it never uses one."""
    if stage in TRAININGS:
        return config.runner.train_processes
    if stage == "text":
        return int(config.text.backend == "umt5")
    return int(stage == "generate" or network(config, stage) is not None)


def network(config: RunConfig, stage: str) -> Published | None:
    """The published network that the stage runs in the worker processes, if it runs one."""
    feature = FEATURES.get(stage)
    return None if feature is None else feature.published.get(getattr(config, stage).backend)


def present(config: RunConfig) -> tuple[str, ...]:
    """The GPUs for extraction, as CUDA_VISIBLE_DEVICES names them: `runner.gpus`, or all that this process may see."""
    if config.runner.gpus:
        return tuple(map(str, config.runner.gpus))
    if os.environ.get("DUALFORCE_DEVICE", "cuda") != "cuda":  # the user has chosen
        return ()
    import torch

    count = torch.cuda.device_count()
    return tuple((named() or [str(n) for n in range(count)])[:count])


def workers(config: RunConfig, stage: str) -> tuple[int, tuple[str, ...]]:
    """Processes for the stage's items, and the GPUs that they are dealt out to, one to each.

    A network with its intermediate results takes gigabytes: as many as there are cores would not fit beside each other.
    """
    runs = network(config, stage)
    gpus = present(config) if runs else ()
    if not runs or not gpus:
        return config.runner.processes, ()
    return min(config.runner.processes, (config.runner.per_gpu or runs.per_gpu) * len(gpus)), gpus
