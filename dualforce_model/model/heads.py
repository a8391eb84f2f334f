"""From one projection to rotated heads: split q, k, v, norm q and k over the width, turn them to their places.

T tokens (B·F·N), D width, H heads, d head dim. On a GPU in half precision one kernel each way does it: written out, the
same steps are a chain of some ten passes over tensors that are bound by memory, a twelfth of the training step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dualforce_model.model.rotary import Phase, rotate


def turned_heads(
    qkv: Tensor, weights: tuple[Tensor, Tensor], eps: float, heads: int, full: Phase, rest: Phase
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries turned by `full`, queries turned by `rest`, keys turned by `full`, values; each [B,F,N,H,d].

    qkv [B,F,N,3D]; RMS norm `weights` [D] of q and k; full [B,F,N,d/2], rest [N,d/2].
    """
    if qkv.is_cuda and qkv.dtype != torch.float32:
        parts = _turn(qkv.contiguous(), *weights, *full, *rest, eps, heads)[:4]
        return parts[0], parts[1], parts[2], parts[3]
    q, k, v = qkv.chunk(3, -1)
    q, k = normed(q, weights[0], eps), normed(k, weights[1], eps)
    q, k, v = (part.reshape(*qkv.shape[:-1], heads, -1) for part in (q, k, v))
    return rotate(q, full), rotate(q, rest), rotate(k, full), v


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X / rms(x) x weight over the last axis, computed in fp32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * weight.float()).to(x.dtype)


@torch.library.custom_op("dualforce::turn", mutates_args=())
def _turn(
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    rest_cos: Tensor,
    rest_sin: Tensor,
    eps: float,
    heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from dualforce_model.model import heads_kernel

    return heads_kernel.forward(qkv, weight_q, weight_k, cos, sin, rest_cos, rest_sin, eps, heads)


@_turn.register_fake
def _(qkv: Tensor, *_others: Tensor | float | int) -> tuple[Tensor, ...]:
    heads = int(_others[-1])
    D = qkv.shape[-1] // 3
    shape = (*qkv.shape[:-1], heads, D // heads)
    return (*(qkv.new_empty(shape) for _ in range(4)), qkv.new_empty(qkv[..., 0].numel(), 2, dtype=torch.float32))


@torch.library.custom_op("dualforce::turn_backward", mutates_args=())
def _turn_backward(
    grad_q: Tensor,
    grad_rest: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    qkv: Tensor,
    weight_q: Tensor,
    weight_k: Tensor,
    cos: Tensor,
    sin: Tensor,
    rest_cos: Tensor,
    rest_sin: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    from dualforce_model.model import heads_kernel

    grads = tuple(grad.contiguous() for grad in (grad_q, grad_rest, grad_k, grad_v))
    return heads_kernel.backward(grads, qkv, weight_q, weight_k, cos, sin, rest_cos, rest_sin, scale)


@_turn_backward.register_fake
def _(
    _q: Tensor, _rest: Tensor, _k: Tensor, _v: Tensor, qkv: Tensor, weight_q: Tensor, weight_k: Tensor, *_others: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(weight_q), torch.empty_like(weight_k)


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, _, _ = inputs
    ctx.save_for_backward(*tensors, output[4])
    ctx.mark_non_differentiable(output[4])


def _backward(ctx, grad_q, grad_rest, grad_k, grad_v, _):  # type: ignore[no-untyped-def]
    grads = _turn_backward(grad_q, grad_rest, grad_k, grad_v, *ctx.saved_tensors)
    return (*grads, None, None, None, None, None, None)


_turn.register_autograd(_backward, setup_context=_remember)
