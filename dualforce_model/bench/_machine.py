"""What a figure was measured on, and timing that waits for the device."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch._dynamo.utils import counters


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"


def surroundings(device: torch.device) -> dict[str, Any]:
    """Device, versions and precision settings, for the record."""
    return {"device": device_name(device), "torch": torch.__version__, "python": platform.python_version()}


def compiler_cache() -> dict[str, int]:
    """How often this process found its compiled code in the compiler's cache on disk, missed it, or could not use it."""
    words = [f"fxgraph_cache_{word}" for word in ("hit", "miss", "bypass")]
    return {word: int(counters["inductor"][word]) for word in words if counters["inductor"][word]}


def timed(work: Callable[[], Any], device: torch.device, repeats: int, warmup: int) -> list[float]:
    """Milliseconds of each of `repeats` runs after `warmup` runs. On a GPU by events, so the host may run ahead."""
    for _ in range(warmup):
        work()
    if device.type != "cuda":
        spent = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            spent.append(1e3 * (time.perf_counter() - began))
        return spent
    torch.cuda.synchronize(device)
    event: Any = torch.cuda.Event
    marks = [event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize(device)
    return [a.elapsed_time(b) for a, b in pairwise(marks)]


def median(values: list[float]) -> float:
    return statistics.median(values)
