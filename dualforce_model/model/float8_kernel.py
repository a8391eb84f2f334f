"""`float8.cast` on a GPU: one pass for the largest magnitude, one that writes the 8-bit values both ways round, in Triton."""

# a kernel's parameters are pointers and numbers of the device: Python has no types for them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SIDE = 128  # of the square that a program casts: whole lines of memory in both directions


@triton.jit
def _cast(x, unit, rows, columns, M, N, LIMIT: tl.constexpr, SIDE: tl.constexpr) -> Any:
    m = tl.program_id(1).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    n = tl.program_id(0).to(tl.int64) * SIDE + tl.arange(0, SIDE)
    inside = (m[:, None] < M) & (n[None, :] < N)
    value = tl.load(x + m[:, None] * N + n[None, :], mask=inside, other=0.0).to(tl.float32) / tl.load(unit)
    value = tl.minimum(tl.maximum(value, -LIMIT), LIMIT).to(rows.dtype.element_ty)
    tl.store(rows + m[:, None] * N + n[None, :], value, mask=inside)
    turned = (n[:, None] < N) & (m[None, :] < M)
    tl.store(columns + n[:, None] * M + m[None, :], tl.trans(value), mask=turned)


def cast(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """See `float8.cast`."""
    from dualforce_model.model.float8 import unit_of

    x = x.contiguous()
    M, N = x.shape
    rows, columns = x.new_empty((M, N), dtype=kind), x.new_empty((N, M), dtype=kind)
    unit = unit_of(x, kind)
    grid = (triton.cdiv(N, SIDE), triton.cdiv(M, SIDE))
    _cast[grid](x, unit, rows, columns, M, N, torch.finfo(kind).max, SIDE, num_warps=8)
    return rows, columns, unit
