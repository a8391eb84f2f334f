"""`merge` on a GPU: one pass over the parts, in Triton."""

# a kernel's parameters are pointers and numbers of the device: Python has no types for them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from dualforce_model.model.merge import Spot

ROWS = 64  # (token, head) pairs per program


@triton.jit
def _merge(
    out, lse, parts, stats, SPOTS: tl.constexpr, F, R, D: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr
) -> Any:  # fmt: skip
    """R = N·H rows per frame. Program (i, b·F + f) makes ROWS rows of frame f of sample b."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    frame = tl.program_id(1).to(tl.int64)
    b, f = frame // F, frame % F
    inside = row < R
    column = tl.arange(0, D)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, D], tl.float32)
    for i in tl.static_range(len(SPOTS)):
        # a spot is (first, frames, groups, stride)
        behind = f - SPOTS[i][0]
        group = behind // SPOTS[i][3]
        within = behind - group * SPOTS[i][3]
        if (behind >= 0) & (group < SPOTS[i][2]) & (within < SPOTS[i][1]):
            base = ((b * SPOTS[i][2] + group) * SPOTS[i][1] + within) * R
            part = tl.load(parts[i] + (base + row)[:, None] * D + column, mask=inside[:, None], other=0.0)
            if SUM:
                total += part.to(tl.float32)
            else:
                own = tl.load(stats[i] + base + row, mask=inside, other=0.0)
                new = tl.maximum(top, own)
                old_share, own_share = tl.exp(top - new), tl.exp(own - new)
                total = total * old_share[:, None] + part.to(tl.float32) * own_share[:, None]
                weight = weight * old_share + own_share
                top = new
    where = frame * R + row
    if not SUM:
        total = total / weight[:, None]
        tl.store(lse + where, top + tl.log(weight), mask=inside)
    tl.store(out + where[:, None] * D + column, total.to(out.dtype.element_ty), mask=inside[:, None])


def _launch(
    parts: Sequence[Tensor], stats: Sequence[Tensor], spots: Sequence[Spot], shape: torch.Size, total: bool
) -> tuple[Tensor, Tensor]:
    B, F, N, H, d = shape
    out = parts[0].new_empty(shape)
    lse = out.new_empty(0 if total else (B, F, N, H), dtype=torch.float32)
    grid = (triton.cdiv(N * H, ROWS), B * F)
    plan = tuple(tuple(spot) for spot in spots)
    _merge[grid](out, lse, tuple(parts), tuple(stats), plan, F, N * H, d, ROWS, total)
    return out, lse


def merged(
    outs: Sequence[Tensor], stats: Sequence[Tensor], spots: Sequence[Spot], shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """See `merge.merged`; head dims are powers of two, as everywhere in this model."""
    return _launch(outs, stats, spots, shape, False)


def summed(parts: Sequence[Tensor], spots: Sequence[Spot], shape: torch.Size) -> Tensor:
    """See `merge.summed`."""
    return _launch(parts, parts, spots, shape, True)[0]
