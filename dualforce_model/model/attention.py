"""Attention by whole frames: who may see what is decided per latent frame, never per token.

B batch, F query frames, N tokens per query frame, G key frames, M tokens per key frame, H heads, d head dim.
q [B,F,N,H,d], k and v [B,G,M,H,d], mask [B|1, F|1, G, M] (True = visible to every token of that query frame).

The *sink* is a block of keys without a place in time, the reference picture: it stands at the instant of whoever looks
at it, so ten minutes into a stream it is as near as it was in training. Its queries are the same ones, not turned by
time (`Sink.q`), and its keys are turned by space alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dualforce_model.model.triangle import triangle_attention


class Sink(NamedTuple):
    """Queries at rest in time [B,F,N,H,d], and the reference's keys and values [B,M,H,d]."""

    q: Tensor
    k: Tensor
    v: Tensor


def thin_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sink: Sink | None = None) -> Tensor:
    """Attention with few queries or few keys, written out: [B,F,N,H,d].

    Flash kernels spread work over query tiles forward and key tiles backward; with 4 to 132 tokens on one side they
    leave most of the chip idle, while two batched products with a fused softmax are bound by reading the other side.
    A masked key has weight exactly 0, so what it holds cannot move a single bit of the result.
    """
    B, F, N, H, d = q.shape
    keys = k.shape[1] * k.shape[2]

    def logits(q: Tensor, k: Tensor) -> Tensor:  # [B,H,F*N,keys]
        return q.reshape(B, F * N, H, d).transpose(1, 2) @ k.reshape(B, -1, H, d).permute(0, 2, 3, 1)

    scores = logits(q, k).float() * d**-0.5
    if mask is not None:
        visible = mask.flatten(2)[:, None, :, None]  # [B,1,F,1,keys]
        scores = scores.unflatten(2, (F, N)).masked_fill(~visible, float("-inf")).flatten(2, 3)
    v = v.reshape(B, keys, H, d)
    if sink is not None:
        scores = torch.cat([logits(sink.q, sink.k).float() * d**-0.5, scores], -1)
        v = torch.cat([sink.v, v], 1)
    weights = scores.softmax(-1).to(v.dtype)
    return (weights @ v.transpose(1, 2)).transpose(1, 2).reshape(B, F, N, H, d)


def frame_causal_attention(q: Tensor, k: Tensor, v: Tensor, sink: Sink, window: int | None) -> Tensor:
    """Frame f of q [B,F,N,H,d] sees the sink and frames max(0, f-window+1) .. f of k and v: [B,F,N,H,d].

    In half precision on a GPU the triangle of frames is cut into large dense calls; elsewhere each frame is one dense
    call against the keys that it may see, so later frames are not even read.
    """
    if q.is_cuda and q.dtype != torch.float32:
        return triangle_attention(q, k, v, sink.q, sink.k, sink.v, window)
    return frame_by_frame_attention(q, k, v, sink, window)


def frame_by_frame_attention(q: Tensor, k: Tensor, v: Tensor, sink: Sink, window: int | None) -> Tensor:
    """The plain form of `frame_causal_attention`."""
    frames = []
    for f in range(q.shape[1]):
        first = 0 if window is None else max(0, f - window + 1)
        here = Sink(sink.q[:, f : f + 1], sink.k, sink.v)
        frames.append(thin_attention(q[:, f : f + 1], k[:, first : f + 1], v[:, first : f + 1], None, here))
    return torch.cat(frames, 1)


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token of q [B,N,H,d] sees all of k and v [B,M,H,d]: [B,N,H,d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
