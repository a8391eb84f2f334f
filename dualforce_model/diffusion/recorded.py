"""A training step as one CUDA graph: some 10,000 kernels, launched by one call.

Launched one by one they take longer than they run: at F=8, B=2 the host needs 390 ms for 290 ms of device time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Step(Generic[T, R]):
    given: T
    replay: Callable[[], R]


class Recorded(Generic[T, R]):
    """`run(given)`, forward and backward of a model: recorded at the first input of each shape, replayed from then on.

    `given` and the result are tensors nested in dataclasses, tuples and dicts. `run` waits for no device and draws no
    random number. Every call fills the gradients anew, in memory that stays: nobody may set them to None, and the
    optimiser steps outside. On a CPU nothing is recorded and the same is computed.
    """

    def __init__(self, model: nn.Module, run: Callable[[T], R]):
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._run = run
        self._steps: dict[Any, _Step[T, R]] = {}
        self._pool: Any = None

    def __call__(self, given: T) -> R:
        """The result for `given`, a copy; the gradients are those of this input alone."""
        key = tuple(leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in _leaves(given))
        if key not in self._steps:
            self._steps[key] = self._recorded(mirrored(given))
        step = self._steps[key]
        overwrite(step.given, given)
        return mirrored(step.replay())

    @property
    def count(self) -> int:
        """Shapes met so far."""
        return len(self._steps)

    def _recorded(self, given: T) -> _Step[T, R]:
        def step() -> R:
            # the first shape's gradients become the graph's own; later ones, which share them, begin at zero
            if held := [p.grad for p in self._parameters if p.grad is not None]:
                torch._foreach_zero_(held)
            return self._run(given)

        if not self._parameters[0].is_cuda:
            return _Step(given, step)

        def rehearse() -> None:
            for _ in range(3):
                self._forget()
                step()
            self._forget()

        graph, result = graph_of(step, rehearse, self._pool)  # shapes take turns, so they share memory
        self._pool = self._pool or graph.pool()

        def replay() -> R:
            graph.replay()
            return result

        return _Step(given, replay)

    def _forget(self) -> None:
        """Before anything is recorded the gradients are nobody's yet."""
        if not self._steps:
            for parameter in self._parameters:
                parameter.grad = None


def graph_of(run: Callable[[], R], rehearse: Callable[[], None], pool: Any) -> tuple[Any, R]:
    """`run` as a CUDA graph in the memory of `pool` (None: its own), and the result that each replay writes into.

    `rehearse` goes first, in a queue of its own: what is compiled, tuned and reserved there is not recorded.
    """
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        rehearse()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads load data, write checkpoints and decode meanwhile
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = run()
    return graph, result


def mirrored(value: T) -> T:
    """A copy of nested dataclasses, tuples and dicts of tensors, with storage of its own."""
    return _walk(value, lambda tensor: tensor.detach().clone())


def _walk(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: _walk(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        )
    if isinstance(value, dict):
        return {name: _walk(part, change) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [_walk(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _leaves(value: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = tuple(getattr(value, f.name) for f in dataclasses.fields(value))
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def overwrite(old: Any, new: Any) -> None:
    """Copy the tensors of `new` into those of `old`, place by place. Raises ValueError where the two do not match."""
    for there, given in zip(_leaves(old), _leaves(new), strict=True):
        if isinstance(there, Tensor) and isinstance(given, Tensor):
            if there.shape != given.shape:
                raise ValueError(f"recorded for a tensor of {tuple(there.shape)}, got {tuple(given.shape)}")
            there.copy_(given, non_blocking=True)
        elif isinstance(there, Tensor) or isinstance(given, Tensor) or there != given:
            raise ValueError(f"recorded with {there!r}, got {given!r}")
