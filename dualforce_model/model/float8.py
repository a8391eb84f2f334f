"""Linear layers in 8-bit floats, an option: the video tower's large products at twice the rate, weights kept in fp32.

Values go in as e4m3, gradients as e5m2, each tensor with one scale by its largest magnitude (Micikevicius et al. 2022);
products accumulate in fp32 and come out in bf16. What it costs in accuracy is measured by `bench train --float8`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VALUE, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2


def unit_of(x: Tensor, kind: torch.dtype) -> Tensor:
    """The fp32 scalar by which x is divided so that its largest magnitude becomes the largest number of `kind`."""
    return torch.linalg.vector_norm(x, float("inf"), dtype=torch.float32).clamp(min=1e-12) / torch.finfo(kind).max


@torch.library.custom_op("dualforce::float8_cast", mutates_args=())
def cast(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """X [M,N] in 8 bits, the same turned round [N,M], and the scalar that both are to be multiplied by.

    The tensor cores want their first operand in rows and their second in columns, and each operand takes either part in
    one of a layer's three products. One operation, not left to the compiler: it computes what comes before once for
    the scalar, once for the values and once, slowly, for their transpose.
    """
    if x.is_cuda:
        from dualforce_model.model import float8_kernel

        return float8_kernel.cast(x, kind)
    unit, limit = unit_of(x, kind), torch.finfo(kind).max
    rows = (x.float() / unit).clamp(-limit, limit).to(kind)
    return rows, rows.t().contiguous(), unit


@cast.register_fake
def _(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = x.new_empty(x.shape, dtype=kind), x.new_empty(x.shape[::-1], dtype=kind)
    return rows, columns, x.new_empty((), dtype=torch.float32)


class Product(torch.autograd.Function):
    """x [M,K] times the transpose of weight [N,K], plus bias [N]; all three products of a step in 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x8, x8_turned, x_unit = cast(x, VALUE)
        w8, w8_turned, w_unit = cast(weight, VALUE)
        ctx.save_for_backward(x8_turned, x_unit, w8_turned, w_unit)
        ctx.dtypes = x.dtype, weight.dtype
        bias = bias.to(torch.bfloat16)
        return torch._scaled_mm(x8, w8.t(), x_unit, w_unit, bias, out_dtype=torch.bfloat16, use_fast_accum=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x8_turned, x_unit, w8_turned, w_unit = ctx.saved_tensors
        x_dtype, w_dtype = ctx.dtypes
        g8, g8_turned, g_unit = cast(grads[0], GRADIENT)
        dx = torch._scaled_mm(g8, w8_turned.t(), g_unit, w_unit, out_dtype=torch.bfloat16)
        dw = torch._scaled_mm(g8_turned, x8_turned.t(), g_unit, x_unit, out_dtype=torch.bfloat16)
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
