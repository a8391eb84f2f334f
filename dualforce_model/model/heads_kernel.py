"""`heads` on a GPU, in Triton: a program per token forward; backward a few per program, for the norms' weights."""

# a kernel's parameters are pointers and numbers of the device: Python has no types for them
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1056  # 8 on each of the 132 multiprocessors of an H200; any number is right


@triton.jit
def _load(base, pair, inside) -> Any:
    """Channels 2p and 2p+1 in fp32."""
    channel = tl.arange(0, 2 * pair.shape[0])
    both = tl.load(base + channel, mask=channel < 2 * tl.sum(inside.to(tl.int32)), other=0.0)
    return tl.split(tl.reshape(both.to(tl.float32), [pair.shape[0], 2]))


@triton.jit
def _store(base, pair, even, odd, inside) -> Any:
    both = tl.interleave(even, odd).to(base.dtype.element_ty)
    channel = tl.arange(0, 2 * pair.shape[0])
    tl.store(base + channel, both, mask=channel < 2 * tl.sum(inside.to(tl.int32)))


@triton.jit
def _forward(
    qkv, weight_q, weight_k, cos, sin, rest_cos, rest_sin, q, q_rest, k, v, scale, eps, N,
    D: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr,
) -> Any:  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, PAIRS)
    inside = pair < D // 2
    place = pair % HALF
    c = tl.load(cos + token * HALF + place)
    s = tl.load(sin + token * HALF + place)
    e, o = _load(qkv + token * 3 * D, pair, inside)
    size = tl.rsqrt(tl.sum(e * e + o * o) / D + eps)
    tl.store(scale + 2 * token, size)
    we, wo = _load(weight_q, pair, inside)
    e, o = e * size * we, o * size * wo
    _store(q + token * D, pair, e * c - o * s, e * s + o * c, inside)
    rc = tl.load(rest_cos + (token % N) * HALF + place)
    rs = tl.load(rest_sin + (token % N) * HALF + place)
    _store(q_rest + token * D, pair, e * rc - o * rs, e * rs + o * rc, inside)
    e, o = _load(qkv + token * 3 * D + D, pair, inside)
    size = tl.rsqrt(tl.sum(e * e + o * o) / D + eps)
    tl.store(scale + 2 * token + 1, size)
    we, wo = _load(weight_k, pair, inside)
    e, o = e * size * we, o * size * wo
    _store(k + token * D, pair, e * c - o * s, e * s + o * c, inside)
    e, o = _load(qkv + token * 3 * D + 2 * D, pair, inside)
    _store(v + token * D, pair, e, o, inside)


@triton.jit
def _through_norm(base, out, weight, size, ge, go, pair, inside, D: tl.constexpr) -> Any:
    """Gradient through x size w: stores that of x, gives those of w. ge, go: gradient of the normed channels."""
    e, o = _load(base, pair, inside)
    e, o = e * size, o * size
    we, wo = _load(weight, pair, inside)
    he, ho = ge * we, go * wo
    along = tl.sum(he * e + ho * o) / D
    _store(out, pair, (he - e * along) * size, (ho - o * along) * size, inside)
    return ge * e, go * o


@triton.jit
def _backward(
    grad_q, grad_rest, grad_k, grad_v, qkv, weight_q, weight_k, cos, sin, rest_cos, rest_sin, scale,
    grad, part_q, part_k, T, N, D: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr,
) -> Any:  # fmt: skip
    pair = tl.arange(0, PAIRS)
    inside = pair < D // 2
    place = pair % HALF
    sum_qe, sum_qo = tl.zeros([PAIRS], tl.float32), tl.zeros([PAIRS], tl.float32)
    sum_ke, sum_ko = tl.zeros([PAIRS], tl.float32), tl.zeros([PAIRS], tl.float32)
    wide = tl.program_id(0).to(tl.int64) * 0  # makes offsets 64 bits wide
    for step in range(tl.program_id(0), T, tl.num_programs(0)):
        token = step + wide
        c = tl.load(cos + token * HALF + place)
        s = tl.load(sin + token * HALF + place)
        e, o = _load(grad_q + token * D, pair, inside)
        ge, go = e * c + o * s, o * c - e * s  # turned back
        rc = tl.load(rest_cos + (token % N) * HALF + place)
        rs = tl.load(rest_sin + (token % N) * HALF + place)
        e, o = _load(grad_rest + token * D, pair, inside)
        ge, go = ge + e * rc + o * rs, go + o * rc - e * rs
        size = tl.load(scale + 2 * token)
        here = token * 3 * D
        we, wo = _through_norm(qkv + here, grad + here, weight_q, size, ge, go, pair, inside, D)
        sum_qe, sum_qo = sum_qe + we, sum_qo + wo
        e, o = _load(grad_k + token * D, pair, inside)
        ge, go = e * c + o * s, o * c - e * s
        size = tl.load(scale + 2 * token + 1)
        here += D
        we, wo = _through_norm(qkv + here, grad + here, weight_k, size, ge, go, pair, inside, D)
        sum_ke, sum_ko = sum_ke + we, sum_ko + wo
        e, o = _load(grad_v + token * D, pair, inside)
        _store(grad + here + D, pair, e, o, inside)
    mine = tl.program_id(0).to(tl.int64) * D
    _store(part_q + mine, pair, sum_qe, sum_qo, inside)
    _store(part_k + mine, pair, sum_ke, sum_ko, inside)


def _sizes(qkv: Tensor, cos: Tensor) -> tuple[int, int, int, int, int]:
    """T, N, D, d/2, and the pairs of channels of a token as a power of two."""
    D = qkv.shape[-1] // 3
    return qkv[..., 0].numel(), qkv.shape[-2], D, cos.shape[-1], triton.next_power_of_2(D // 2)


def forward(
    qkv: Tensor, weight_q: Tensor, weight_k: Tensor, cos: Tensor, sin: Tensor, rest_cos: Tensor, rest_sin: Tensor,
    eps: float, heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """q, q at rest, k, v [B,F,N,H,d], and 1/rms of q and k [T,2]."""
    T, N, D, half, pairs = _sizes(qkv, cos)
    q, q_rest, k, v = (qkv.new_empty(*qkv.shape[:-1], heads, D // heads) for _ in range(4))
    scale = qkv.new_empty(T, 2, dtype=torch.float32)
    phases = [phase.contiguous() for phase in (cos, sin, rest_cos, rest_sin)]
    _forward[(T,)](qkv, weight_q, weight_k, *phases, q, q_rest, k, v, scale, eps, N, D, half, pairs)
    return q, q_rest, k, v, scale


def backward(
    grads: tuple[Tensor, ...], qkv: Tensor, weight_q: Tensor, weight_k: Tensor, cos: Tensor, sin: Tensor,
    rest_cos: Tensor, rest_sin: Tensor, scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of qkv and of both weights."""
    T, N, D, half, pairs = _sizes(qkv, cos)
    grad = torch.empty_like(qkv)
    programs = min(T, PROGRAMS)
    part_q, part_k = (qkv.new_empty(programs, D, dtype=torch.float32) for _ in range(2))
    phases = [phase.contiguous() for phase in (cos, sin, rest_cos, rest_sin)]
    _backward[(programs,)](
        *grads, qkv, weight_q, weight_k, *phases, scale, grad, part_q, part_k, T, N, D, half, pairs, num_warps=8
    )
    return grad, part_q.sum(0).to(weight_q.dtype), part_k.sum(0).to(weight_k.dtype)
