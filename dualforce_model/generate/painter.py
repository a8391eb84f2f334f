"""From latents to pictures beside the drawing: each stream's decoder in a thread of its own, on a GPU in its own queue."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Decode = Callable[[np.ndarray, int], np.ndarray]  # a latent [16,h,w] and its index, in order, to [1 or 4,H,W,3] uint8


class Painted(NamedTuple):
    """Pictures uint8 [1 or 4,H,W,3] of a latent, and what was to be brought to the host with them."""

    pictures: np.ndarray
    beside: np.ndarray | None


class Painter:
    """One clip's decoder, which remembers what went before (`features.wan_vae`) or does not need to (`features.codec`).

    Latents must come in order. Pictures are decoded while the next latent is drawn, and do not depend on it.
    """

    def __init__(self, decode: Decode, device: torch.device):
        self._decode = decode
        self._thread = ThreadPoolExecutor(1, "painter")
        self._queue: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, latent: Tensor, index: int, beside: Tensor | None = None) -> Future[Painted]:
        """Begin with a latent [16,h,w]; its pictures, and `beside` on the host, come by `result()`."""
        ready: Any = None
        if self._queue is not None:
            ready = torch.cuda.Event()
            ready.record()
        return self._thread.submit(_painted, self._decode, self._queue, ready, latent, index, beside)

    def close(self) -> None:
        """Drop what was not begun, and end the thread."""
        self._thread.shutdown(cancel_futures=True)


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
