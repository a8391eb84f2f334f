"""A second queue on the GPU for the struct tower: its kernels fill a few multiprocessors, the video tower leaves some free.

Launched one after the other a struct block takes as long as its kernels' latencies add up to, though it computes next
to nothing. So it runs beside: its blocks between two bridges, and its side of a bridge, whose result it alone reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Beside:
    """Where nothing runs beside: on a CPU, and in training, where another queue gained nothing (docs/benchmarks.md)."""

    def fork(self, *given: Tensor | None) -> None:
        """What is launched within `with` from now on comes after all that was launched so far, and reads `given`."""

    def join(self, *given: Tensor | None) -> None:
        """What is launched outside from now on comes after all that was launched within, and reads `given`."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class Stream(Beside):
    """A CUDA stream beside the current one; may be recorded into a graph."""

    def __init__(self, device: torch.device):
        self._stream: Any = torch.cuda.Stream(device)
        self._within: Any = None

    def fork(self, *given: Tensor | None) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        _read_in(self._stream, given)

    def join(self, *given: Tensor | None) -> None:
        torch.cuda.current_stream().wait_stream(self._stream)
        _read_in(torch.cuda.current_stream(), given)

    def __enter__(self) -> None:
        self._within = torch.cuda.stream(self._stream)
        self._within.__enter__()

    def __exit__(self, *error: object) -> None:
        self._within.__exit__(*error)


def _read_in(stream: Any, given: tuple[Tensor | None, ...]) -> None:
    """Memory made in another queue must not be taken for something else there while it is read in this one."""
    for tensor in given:
        if tensor is not None:
            tensor.record_stream(stream)
