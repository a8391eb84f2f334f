"""Which stages compute on a GPU, which GPUs this machine has for them, and how many processes share them."""

from __future__ import annotations

import os

from dualforce_model.features import FEATURES, Published
from dualforce_model.train.devices import named
from tasks.config import TRAININGS, RunConfig

_last: Published | None = None  # what this process ran last


def slots(config: RunConfig, stage: str) -> int:
    """How many GPUs a shard of the stage may use at a time; 0 when it never uses one."""
    if stage in TRAININGS:
        from tasks.train import processes

        return processes(config.runner)
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
    kind, _, one = (os.environ.get("DUALFORCE_DEVICE") or "cuda").partition(":")
    if kind != "cuda":  # the user has chosen
        return ()
    import torch

    count = torch.cuda.device_count()
    there = tuple((named() or [str(n) for n in range(count)])[:count])
    return there[int(one) : int(one) + 1] if one else there


def workers(config: RunConfig, stage: str) -> tuple[int, tuple[str, ...]]:
    """Processes for the stage's items, and the GPUs that they are dealt out to, one to each.

    The same for all stages of a run that use a GPU, which so share their processes: stages side by side take no more of
    its memory than the largest network would.
    """
    gpus = present(config) if network(config, stage) else ()
    if not gpus:
        return config.runner.processes, ()
    used = [found for name in FEATURES if (found := network(config, name)) is not None]
    per_gpu = config.runner.per_gpu or sharing(max(one.gib for one in used), memory_gib())
    return min(config.runner.processes, per_gpu * len(gpus)), gpus


def sharing(needed: float, there: float) -> int:
    """Processes that share a GPU of `there` GiB when each takes `needed`: at most twelve, and one if it is tight.

    Two keep it at work with the Wan VAE, twelve with the small networks, whose pictures take longer to decode than to
    compute (docs/benchmarks.md).
    """
    return max(1, min(12, int(0.9 * there / needed)))


def turn_to(runs: Published | None) -> None:
    """Before this process runs another network than the last time, give back what the last one's results took on the GPU."""
    global _last
    if runs is None or runs == _last:
        return
    if _last is not None:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    _last = runs


def memory_gib() -> float:
    """Memory of the smallest GPU that this process sees; of a card of 24 GB when it sees none."""
    import torch

    sizes = [torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())]
    return min(sizes, default=24e9) / 2**30
