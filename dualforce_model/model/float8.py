"""Linear layers in 8-bit floats, an option: the video tower's large products at twice the rate, weights kept in fp32.

Values go in as e4m3, gradients as e5m2, each tensor with one scale by its largest magnitude (Micikevicius et al. 2022);
products accumulate in fp32 and come out in bf16. What it costs in accuracy is measured by `bench train --float8`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VALUE, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2


def scaled(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """X in 8 bits, and the scalar that it is to be multiplied by."""
    limit = torch.finfo(kind).max
    unit = x.abs().amax().float().clamp(min=1e-12) / limit
    return (x.float() / unit).clamp(-limit, limit).to(kind), unit


class Product(torch.autograd.Function):
    """x [M,K] times the transpose of weight [N,K], plus bias [N]; all three products of a step in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x8, x_unit = scaled(x, VALUE)
        w8, w_unit = scaled(weight, VALUE)
        ctx.save_for_backward(x8, x_unit, w8, w_unit)
        ctx.dtypes = x.dtype, weight.dtype
        bias = bias.to(torch.bfloat16)
        return torch._scaled_mm(x8, w8.t(), x_unit, w_unit, bias, out_dtype=torch.bfloat16, use_fast_accum=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x8, x_unit, w8, w_unit = ctx.saved_tensors
        x_dtype, w_dtype = ctx.dtypes
        g8, g_unit = scaled(grads[0], GRADIENT)
        # the unit wants its first operand in rows and its second in columns
        w8, x8 = (part.t().contiguous().t() for part in (w8, x8))
        dx = torch._scaled_mm(g8, w8, g_unit, w_unit, out_dtype=torch.bfloat16)
        dw = torch._scaled_mm(g8.t().contiguous(), x8, g_unit, x_unit, out_dtype=torch.bfloat16)
        return dx.to(x_dtype), dw.to(w_dtype), grads[0].float().sum(0).to(w_dtype)


class Float8Linear(nn.Linear):
    """`nn.Linear` with 8-bit products; the same weights under the same names."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        product: Tensor = Product.apply(flat, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product.to(x.dtype).reshape(*x.shape[:-1], -1)


def use_float8(model: nn.Module) -> int:
    """Turn the large linear layers of a DualForce's video blocks into 8-bit ones, in place; gives how many."""
    changed = 0
    for name, module in model.named_modules():
        large = name.endswith((".attention.qkv", ".attention.out", ".ffn_in", ".ffn_out", ".text.q", ".text.out"))
        if name.startswith("video.blocks.") and large and type(module) is nn.Linear:
            module.__class__ = Float8Linear
            changed += 1
    return changed
