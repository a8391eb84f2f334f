"""Ulysses: processes share one window, each holding a part of every frame's tokens; for attention they exchange heads.

B batch, F frames, N video tokens per frame, n = N / size of them here, H heads, h = H / size of them here, d head dim.
Every step is differentiable and its backward is its exact transpose, so the mean over the processes of the gradients of
a loss that all of them compute is the gradient of that loss. Source: DeepSpeed-Ulysses (Jacobs et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed import _functional_collectives as collectives

from dualforce_model.model.exchange import Exchange

# torch 2.13 renamed it
_gather = getattr(collectives, "all_gather_single_autograd", None) or collectives.all_gather_tensor_autograd


class _InOnePiece(torch.autograd.Function):
    """Nothing forward; backward the gradient in one piece of memory: NCCL wants that, torch before 2.13 does not care."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


class Ulysses(Exchange):
    """Tokens and heads spread over the processes of a group. Traced by torch.compile; works on gloo and NCCL."""

    def __init__(self, group: ProcessGroup):
        self.group, self.size, self.rank = group, group.size(), group.rank()

    def part(self, x: Tensor, dim: int) -> Tensor:
        """The tokens of this process along `dim`. Raises ValueError when they can't be shared evenly."""
        if x.shape[dim] % self.size:
            raise ValueError(
                f"{x.shape[dim]} tokens of a frame can't be shared by {self.size} processes: choose a sequence group "
                "that divides them"
            )
        return x.tensor_split(self.size, dim)[self.rank].contiguous()

    def whole(self, x: Tensor, dim: int) -> Tensor:
        return self._gathered(x, dim)

    def to_heads(self, *given: Tensor) -> tuple[Tensor, ...]:
        """One exchange for all of them: [...,n,H,d] each to [...,N,h,d]."""
        x = torch.stack(given)
        parts = x.unflatten(-2, (self.size, -1)).movedim(-3, 0)  # [size, given, ..., n, h, d]: a part for each process
        found = self._exchanged(parts)
        return tuple(found.movedim(0, -4).flatten(-4, -3).unbind(0))

    def to_tokens(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-3, (self.size, -1)).movedim(-4, 0)  # [size, ..., n, h, d]
        return self._exchanged(parts).movedim(0, -3).flatten(-3, -2)

    def part_of_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-2, (self.size, -1)).select(-3, self.rank)

    def whole_heads(self, x: Tensor) -> Tensor:
        return self._gathered(x, x.ndim - 2)

    def _exchanged(self, parts: Tensor) -> Tensor:
        """Part i of the first axis goes to process i; what process j sent stands at j."""
        return _InOnePiece.apply(collectives.all_to_all_single_autograd(parts.contiguous(), None, None, self.group))

    def _gathered(self, x: Tensor, dim: int) -> Tensor:
        """All processes' x, one after the other along `dim`."""
        parts: Tensor = _InOnePiece.apply(_gather(x[None].contiguous(), 0, self.group))
        return parts.movedim(0, dim).flatten(dim, dim + 1)
