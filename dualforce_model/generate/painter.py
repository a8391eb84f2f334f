"""From latents to pictures beside the drawing: in another thread, on a GPU in its own queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Decode = Callable[[np.ndarray, int], np.ndarray]  # a latent [16,h,w] and its index, in order, to [1 or 4,H,W,3] uint8


class Painted(NamedTuple):
    """Pictures uint8 [1 or 4,H,W,3] of a latent, and what was to be brought to the host with them."""

    pictures: np.ndarray
    beside: np.ndarray | None


@lru_cache
def at_device(device: torch.device) -> ThreadPoolExecutor:
    """The one thread that encodes and decodes on a GPU, which does one thing at a time anyway.

    For good: cuDNN forgets with a thread which of its kernels were fastest, and would try them all for every clip.
    """
    return ThreadPoolExecutor(1, f"painter {device}")


class Painter:
    """One clip's decoder, which remembers what went before (`features.wan_vae`) or does not need to (`features.codec`).

    Latents must come in order. Pictures are decoded while the next latent is drawn, and do not depend on it.
    `shared`: a thread that others use, too; otherwise the clip has its own.
    """

    def __init__(self, decode: Decode, device: torch.device, shared: ThreadPoolExecutor | None = None):
        self._decode = decode
        self._thread, self._own = shared or ThreadPoolExecutor(1, "painter"), shared is None
        self._begun: deque[Future[Painted]] = deque()
        self._queue: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, latent: Tensor, index: int, beside: Tensor | None = None) -> Future[Painted]:
        """Begin with a latent [16,h,w]; its pictures, and `beside` on the host, come by `result()`."""
        ready: Any = None
        if self._queue is not None:
            ready = torch.cuda.Event()
            ready.record()
        while self._begun and self._begun[0].done():
            self._begun.popleft()
        job = self._thread.submit(_painted, self._decode, self._queue, ready, latent, index, beside)
        self._begun.append(job)
        return job

    def close(self) -> None:
        """Drop what was not begun, and wait for what was."""
        wait([job for job in self._begun if not job.cancel()])
        if self._own:
            self._thread.shutdown()


def _painted(decode: Decode, queue: Any, ready: Any, latent: Tensor, index: int, beside: Tensor | None) -> Painted:
    with torch.inference_mode():
        if queue is None:
            return Painted(decode(latent.numpy(), index), None if beside is None else beside.numpy())
        with torch.cuda.stream(queue):
            queue.wait_event(ready)
            for tensor in (latent, beside):
                if tensor is not None:
                    tensor.record_stream(queue)
            told = None if beside is None else beside.cpu().numpy()
            return Painted(decode(latent.cpu().numpy(), index), told)
