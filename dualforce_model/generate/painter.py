"""From latents to pictures beside the drawing: each stream's decoder in a thread of its own, on a GPU in its own queue."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

Decode = Callable[[np.ndarray, int], np.ndarray]  # a latent [16,h,w] and its index, in order, to [1 or 4,H,W,3] uint8


class Painter:
    """One clip's decoder, which remembers what went before (`features.wan_vae`) or does not need to (`features.codec`).

    Latents must come in order. Pictures are decoded while the next latent is drawn, and do not depend on it.
    """

    def __init__(self, decode: Decode, device: torch.device):
        self._decode = decode
        self._thread = ThreadPoolExecutor(1, "painter")
        self._queue: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, latent: Tensor, index: int) -> Future[np.ndarray]:
        """Begin with a latent [16,h,w]; its pictures come by `result()`."""
        ready: Any = None
        if self._queue is not None:
            ready = torch.cuda.Event()
            ready.record()
        return self._thread.submit(_decoded, self._decode, self._queue, ready, latent, index)

    def close(self) -> None:
        """Drop what was not begun, and end the thread."""
        self._thread.shutdown(cancel_futures=True)


def _decoded(decode: Decode, queue: Any, ready: Any, latent: Tensor, index: int) -> np.ndarray:
    with torch.inference_mode():
        if queue is None:
            return decode(latent.numpy(), index)
        with torch.cuda.stream(queue):
            queue.wait_event(ready)
            latent.record_stream(queue)
            return decode(latent.cpu().numpy(), index)
