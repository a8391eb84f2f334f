"""Frame-causal attention as a few large dense calls: the triangle of frames is cut into squares.

B batch, F frames, N tokens per frame, H heads, d head dim; q, k, v [B,F,N,H,d].

Dense attention kernels run at 600 TFLOP/s and more where masked ones reach 400. Frame f sees frames 0..f, so the work
is a triangle. Its diagonal is one batched call (each frame with itself). Then, for s = 1, 2, 4, ... frames, the second
half of every run of 2s frames sees the whole first half: one batched call of dense squares per level, log2(F) levels,
and one more for the sink. Each call gives the log-sum-exp of its logits, by which the parts are merged exactly;
backward, every call is run with the merged output and log-sum-exp, so that its gradients simply add up (as in ring
attention, Liu et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dualforce_model.model import merge


class Piece(NamedTuple):
    """One batched dense call: in each of `groups` runs, `stride` frames apart, `queries` frames see `keys` frames.

    The first run's queries begin at frame `q`, its keys at frame `k`; neither is longer than the stride.
    """

    q: int
    queries: int
    k: int
    keys: int
    groups: int
    stride: int


@lru_cache
def cut(frames: int, window: int | None) -> tuple[Piece, ...]:
    """The pieces that cover, once each, all pairs (f, g) with max(0, f - window + 1) <= g <= f."""
    if window is not None and window < frames:
        return tuple(
            Piece(f, 1, max(0, f - window + 1), min(f + 1, window), groups=1, stride=frames) for f in range(frames)
        )
    pieces = [Piece(0, 1, 0, 1, groups=frames, stride=1)]
    half = 1
    while half < frames:
        whole = frames // (2 * half)
        if whole:
            pieces.append(Piece(half, half, 0, half, groups=whole, stride=2 * half))
        rest = frames - 2 * half * whole
        if rest > half:  # the last run is cut short: only a part of its second half is there
            first = 2 * half * whole
            pieces.append(Piece(first + half, rest - half, first, half, groups=1, stride=2 * half))
        half *= 2
    return tuple(pieces)


def take(x: Tensor, first: int, count: int, piece: Piece) -> Tensor:
    """Frames first .. first+count-1 of every run of a piece, as a batch: [B·groups, H, count·N, d]."""
    if piece.groups == 1:
        runs = x[:, None, first : first + count]
    else:
        whole = piece.groups * piece.stride
        runs = x[:, :whole].reshape(x.shape[0], piece.groups, piece.stride, *x.shape[2:])[:, :, first : first + count]
    return runs.reshape(-1, count * x.shape[2], *x.shape[3:]).transpose(1, 2)


def dense_forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of q to all of k and v [B,H,S,d]: output [B,S,H,d] and log-sum-exp [B,S,H] in fp32, both contiguous."""
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        return out.transpose(1, 2).contiguous(), lse.reshape(q.shape[:3]).transpose(1, 2).contiguous()
    logits = (q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    lse = logits.logsumexp(-1)
    out = (logits - lse[..., None]).exp().to(v.dtype) @ v
    return out.transpose(1, 2).contiguous(), lse.transpose(1, 2).contiguous()


def dense_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v [B,S,H,d], contiguous; `out` and `lse` [B,H,S] may be those of a larger set of keys."""
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        seed = torch.zeros((), dtype=torch.long, device=q.device)  # of a dropout that is not used
        found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, lse[..., None].contiguous(), seed, seed, None, None, None,
            q.shape[2], k.shape[2], 0.0, False,
        )  # fmt: skip
        dq, dk, dv = (g.transpose(1, 2).contiguous() for g in found)
        return dq, dk, dv
    scale = q.shape[-1] ** -0.5
    weights = ((q @ k.transpose(2, 3)).float() * scale - lse[..., None]).exp()
    slope = (grad @ v.transpose(2, 3)).float() - (grad.float() * out.float()).sum(-1, keepdim=True)
    through = (weights * slope * scale).to(q.dtype)
    parts = (through @ k, through.transpose(2, 3) @ q, weights.to(grad.dtype).transpose(2, 3) @ grad)
    dq, dk, dv = (g.transpose(1, 2).contiguous() for g in parts)
    return dq, dk, dv


@torch.library.custom_op("dualforce::triangle", mutates_args=())
def _triangle(
    q: Tensor, k: Tensor, v: Tensor, sink_q: Tensor, sink_k: Tensor, sink_v: Tensor, window: int
) -> tuple[Tensor, Tensor]:
    F = q.shape[1]
    pieces = cut(F, window or None)
    outs, stats = [], []
    for piece in pieces:
        keys = (take(x, piece.k, piece.keys, piece) for x in (k, v))
        out, lse = dense_forward(take(q, piece.q, piece.queries, piece), *keys)
        outs.append(out)
        stats.append(lse)
    whole = Piece(0, F, 0, 0, groups=1, stride=F)
    out, lse = dense_forward(take(sink_q, 0, F, whole), sink_k.transpose(1, 2), sink_v.transpose(1, 2))
    spots = [merge.Spot(p.q, p.queries, p.groups, p.stride) for p in (*pieces, whole)]
    return merge.merged([*outs, out], [*stats, lse], spots, q.shape)


@_triangle.register_fake
def _(q: Tensor, *_others: Tensor | int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:4], dtype=torch.float32)


@torch.library.custom_op("dualforce::triangle_backward", mutates_args=())
def _triangle_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink_q: Tensor,
    sink_k: Tensor,
    sink_v: Tensor,
    out: Tensor,
    lse: Tensor,
    window: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    F = q.shape[1]
    pieces = cut(F, window or None)
    grad = grad.contiguous()
    slopes: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for piece in pieces:
        grad_p, q_p, out_p = (take(x, piece.q, piece.queries, piece) for x in (grad, q, out))
        k_p, v_p = (take(x, piece.k, piece.keys, piece) for x in (k, v))
        lse_p = take(lse[..., None], piece.q, piece.queries, piece)[..., 0]
        for kind, slope in zip(slopes, dense_backward(grad_p, q_p, k_p, v_p, out_p, lse_p), strict=True):
            kind.append(slope)
    asked = [merge.Spot(p.q, p.queries, p.groups, p.stride) for p in pieces]
    told = [merge.Spot(p.k, p.keys, p.groups, p.stride) for p in pieces]
    dq, dk, dv = (merge.summed(parts, spots, q.shape) for parts, spots in zip(slopes, (asked, told, told), strict=True))
    whole = Piece(0, F, 0, 0, groups=1, stride=F)
    grad_p, q_p, out_p = (take(x, 0, F, whole) for x in (grad, sink_q, out))
    lse_p = take(lse[..., None], 0, F, whole)[..., 0]
    dsq, dsk, dsv = dense_backward(grad_p, q_p, sink_k.transpose(1, 2), sink_v.transpose(1, 2), out_p, lse_p)
    return dq, dk, dv, dsq.reshape(q.shape), dsk, dsv


@_triangle_backward.register_fake
def _(_grad: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in given[:6])


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: Sequence, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_triangle_backward(grad, *ctx.saved_tensors, ctx.window), None)  # type: ignore[attr-defined]


_triangle.register_autograd(_backward, setup_context=_remember)


def triangle_attention(
    q: Tensor, k: Tensor, v: Tensor, sink_q: Tensor, sink_k: Tensor, sink_v: Tensor, window: int | None
) -> Tensor:
    """The same as `frame_by_frame_attention`, for q, k, v [B,F,N,H,d] and sink_k, sink_v [B,M,H,d]."""
    return _triangle(q, k, v, sink_q, sink_k, sink_v, window or 0)[0]
