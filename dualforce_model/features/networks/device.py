"""Where a network runs and in which numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import nn

# float32: exact products. tf32: float32 storage, products rounded to 10 bits on tensor cores (float32 elsewhere).
Precision = Literal["float32", "tf32", "bfloat16"]


def pick() -> torch.device:
    """The GPU when there is one, else the CPU; `DUALFORCE_DEVICE` (cpu, cuda, cuda:1) decides otherwise."""
    return torch.device(os.environ.get("DUALFORCE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def dtype_of(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@contextmanager
def numbers(precision: Precision) -> Iterator[None]:
    """Inference without gradients, in which float32 products are exact or rounded as `precision` says."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def forward_of(
    model: nn.Module, outputs: Callable[[nn.Module, torch.Tensor], dict[str, torch.Tensor]], precision: Precision
) -> Callable[[np.ndarray], Callable[[], dict[str, np.ndarray]]]:
    """A `conveyor.Forward` of `model` on the picked device: pictures [B,H,W,3] uint8 go in as [B,3,H,W] in 0..1.

    `outputs(model, pictures)` gives named tensors with B rows; they come out as float32 arrays.
    """
    device, dtype = pick(), dtype_of(precision)
    model = model.to(device, dtype).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def forward(pictures: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
        with numbers(precision):
            batch = torch.from_numpy(pictures)
            if device.type == "cuda":  # a pinned copy travels while the GPU works, and `pictures` may be filled again
                batch = batch.pin_memory().to(device, non_blocking=True)
            batch = batch.permute(0, 3, 1, 2).to(dtype) / 255
            found = {name: value.float() for name, value in outputs(model, batch).items()}
            if device.type == "cuda":
                found = {name: value.to("cpu", non_blocking=True) for name, value in found.items()}
                ready = torch.cuda.Event()
                ready.record()

        def wait() -> dict[str, np.ndarray]:
            if device.type == "cuda":
                ready.synchronize()
            return {name: value.numpy() for name, value in found.items()}

        return wait

    return forward
