"""Which stages compute on a GPU, which GPUs this machine has for them, and how many processes share them."""

from __future__ import annotations

import os

from dualforce_model.features import FEATURES
from tasks.config import TRAININGS, RunConfig


def slots(config: RunConfig, stage: str) -> int:
    """How many GPUs a shard of the stage may use at a time; 0 when it never uses one."""
    if stage in TRAININGS:
        return config.runner.train_processes
    if stage == "text":
        return int(config.text.backend == "umt5")
    return int(stage == "generate" or extracts(config, stage))


def extracts(config: RunConfig, stage: str) -> bool:
    """Whether the stage runs a published network in the worker processes."""
    feature = FEATURES.get(stage)
    return feature is not None and getattr(config, stage).backend in feature.published


def present(config: RunConfig) -> tuple[str, ...]:
    """The GPUs for extraction, as CUDA_VISIBLE_DEVICES names them: `runner.gpus`, or all that this process may see."""
    if config.runner.gpus:
        return tuple(map(str, config.runner.gpus))
    if os.environ.get("DUALFORCE_DEVICE", "cuda") != "cuda":  # the user has chosen
        return ()
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(torch.cuda.device_count())] if named is None else named.split(",")
    return tuple(names[: torch.cuda.device_count()])


def workers(config: RunConfig, stage: str) -> tuple[int, tuple[str, ...]]:
    """Processes for the stage's items, and the GPUs that they are dealt out to, one to each.

    A network with its intermediate results takes gigabytes: as many as there are cores would not fit beside each other.
    """
    gpus = present(config) if extracts(config, stage) else ()
    if not gpus:
        return config.runner.processes, ()
    per_gpu = config.runner.per_gpu or FEATURES[stage].published[getattr(config, stage).backend].per_gpu
    return min(config.runner.processes, per_gpu * len(gpus)), gpus
