"""Time frame-causal attention alone, by route: triangle of dense calls, FlexAttention, one dense call per frame."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from dualforce_model.bench._machine import median, surroundings, timed
from dualforce_model.model.triangle import triangle_attention


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 21, 33])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 1, 1])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--routes", nargs="+", default=["triangle", "flex", "per_frame", "unmasked"])


def flex_route(frames: int, tokens: int, device: torch.device) -> Callable[..., Tensor]:
    """One call with a block mask over the sink and the frames (the sink's queries not at rest: for timing alone)."""

    def seen(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k // tokens <= q // tokens + 1

    mask = create_block_mask(seen, None, None, frames * tokens, (frames + 1) * tokens, device=device)
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, _still: Tensor, sink_k: Tensor, sink_v: Tensor) -> Tensor:
        keys, values = (torch.cat([s, x.flatten(1, 2)], 1).transpose(1, 2) for s, x in ((sink_k, k), (sink_v, v)))
        return compiled(q.flatten(1, 2).transpose(1, 2), keys, values, block_mask=mask)

    return attend


def per_frame_route(q: Tensor, k: Tensor, v: Tensor, _still: Tensor, sink_k: Tensor, sink_v: Tensor) -> Tensor:
    """One dense call per frame against growing keys."""
    keys, values = (torch.cat([s, x.flatten(1, 2)], 1).transpose(1, 2) for s, x in ((sink_k, k), (sink_v, v)))
    N, outs = q.shape[2], []
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for f in range(q.shape[1]):
            end = (f + 2) * N
            frame = q[:, f].transpose(1, 2)
            outs.append(functional.scaled_dot_product_attention(frame, keys[:, :, :end], values[:, :, :end]))
    return torch.cat(outs, 2)


def unmasked_route(q: Tensor, k: Tensor, v: Tensor, *_sink: Tensor) -> Tensor:
    """One dense call of all with all: the ceiling, at its own (larger) work."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v)


def triangle_route(q: Tensor, k: Tensor, v: Tensor, still: Tensor, sink_k: Tensor, sink_v: Tensor) -> Tensor:
    """The route that the model takes."""
    return triangle_attention(q, k, v, still, sink_k, sink_v, None)


ROUTES: dict[str, Callable[..., Tensor]] = {
    "triangle": triangle_route,
    "per_frame": per_frame_route,
    "unmasked": unmasked_route,
}


def run(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cuda")
    result: dict[str, Any] = surroundings(device)
    for F, B in zip(args.frames, args.batch, strict=True):
        N, H, d = args.tokens, args.heads, args.head_dim
        shapes = [(B, F, N, H, d)] * 4 + [(B, N, H, d)] * 2
        given = [torch.randn(s, device=device, dtype=torch.bfloat16, requires_grad=True) for s in shapes]
        for route in args.routes:
            pairs = B * N * N * (F * F if route == "unmasked" else F * (F + 1) / 2 + F)
            attend = ROUTES[route] if route in ROUTES else flex_route(F, N, device)
            spent = both_ways(attend, given, device)
            result[f"F={F} B={B} {route}"] = {
                "forward_ms": round(spent[0], 3),
                "backward_ms": round(spent[1], 3),
                "forward_tflops": round(4 * pairs * H * d / spent[0] / 1e9),
                "backward_tflops": round(10 * pairs * H * d / spent[1] / 1e9),
            }
    return result


def both_ways(attend: Callable[..., Tensor], given: list[Tensor], device: torch.device) -> tuple[float, float]:
    """Milliseconds forward and backward."""
    grad = torch.randn_like(attend(*given))
    forward = median(timed(lambda: attend(*given), device, 10, 3))

    def there_and_back() -> None:
        torch.autograd.grad(attend(*given), given, grad, allow_unused=True)

    return forward, median(timed(there_and_back, device, 10, 3)) - forward
