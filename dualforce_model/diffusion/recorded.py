"""A training step as one CUDA graph: some 10,000 kernels, launched by one call.

Launched one by one they take longer than they run: at F=8, B=2 the host needs 390 ms for 290 ms of device time.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dualforce_model.configs.forcing import LossWeights
from dualforce_model.diffusion.losses import Terms
from dualforce_model.diffusion.step import Batch, Draw, terms_of

T = TypeVar("T")


class CapturedStep:
    """Forward and backward of batches of one shape. The optimiser steps outside, on gradients that stay in place.

    Every call overwrites the gradients: never set them to None, and accumulate elsewhere. `zero_grad` is not needed.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Batch,
        drawn: Draw,
        weights: LossWeights | None = None,
        autocast: torch.dtype | None = torch.bfloat16,
    ):
        """Run the step a few times to compile and tune it, then record it. Weights do not move."""
        self.model, self.weights, self.autocast = model, weights, autocast
        self.batch, self.drawn = mirrored(batch), mirrored(drawn)
        side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.model.zero_grad(set_to_none=True)
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self.model.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.terms = self._run()

    def _run(self) -> Terms:
        with torch.autocast("cuda", self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            terms = terms_of(self.model, self.batch, self.drawn, self.weights)
        terms.total.backward()  # type: ignore[no-untyped-call]
        return terms

    def __call__(self, batch: Batch, drawn: Draw) -> Terms:
        """Fill the gradients from a batch of the captured shape; the terms are overwritten by the next call."""
        overwrite(self.batch, batch)
        overwrite(self.drawn, drawn)
        self.graph.replay()
        return self.terms


def mirrored(value: T) -> T:
    """A copy of nested dataclasses and tuples of tensors, with storage of its own."""
    return _walk(value, lambda tensor: tensor.detach().clone())


def _walk(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: _walk(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        )
    if isinstance(value, tuple):
        return type(value)(*(_walk(part, change) for part in value))
    return value


def overwrite(old: Any, new: Any) -> None:
    """Copy the tensors of `new` into those of `old`, place by place. Raises ValueError where the two do not match."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if old.shape != new.shape:
            raise ValueError(f"captured for a tensor of {tuple(old.shape)}, got {tuple(new.shape)}")
        old.copy_(new, non_blocking=True)
    elif dataclasses.is_dataclass(old):
        for field in dataclasses.fields(old):
            overwrite(getattr(old, field.name), getattr(new, field.name))
    elif isinstance(old, tuple):
        for a, b in zip(old, new, strict=True):
            overwrite(a, b)
    elif old is not new:
        raise ValueError(f"captured with {old!r}, got {new!r}")
