"""The bridge: both towers look at each other at once, each frame at frames no later than itself.

B batch, F frames, N video tokens and 4 struct tokens per frame, V and S widths of the towers, H heads, d head dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualforce_model.configs.shape import TowerConfig
from dualforce_model.model.attention import Sink, thin_attention
from dualforce_model.model.block import KeyValue
from dualforce_model.model.cache import RingView
from dualforce_model.model.exchange import HERE, Exchange
from dualforce_model.model.norms import LayerNorm, RMSNorm
from dualforce_model.model.rotary import Phase, rotate


class Sight(NamedTuple):
    """What one direction of the bridge may see: mask [B|1,F,G,M] by frame, the sink, and the past when cached."""

    mask: Tensor | None
    sink: KeyValue | None = None
    past: RingView | None = None


class Gaze(nn.Module):
    """One direction: tokens of width `width` look at tokens of width `source`. The gate starts at zero.

    With an `exchange`, the source's tokens are spread over processes and those that look are everywhere the same.
    """

    exchange: Exchange = HERE

    def __init__(self, width: int, source: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_source = LayerNorm(width, eps), LayerNorm(source, eps)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(source, 2 * width)
        self.norm_q, self.norm_k = RMSNorm(width, eps), RMSNorm(width, eps)
        self.out = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(width))

    def keys(self, source: Tensor) -> KeyValue:
        """Keys and values [...,H,d] of source [...,source], at rest in time."""
        k, v = self.kv(self.norm_source(source)).chunk(2, -1)
        k, v = self.norm_k(k).unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))
        k, v = self.exchange.to_heads(k, v)
        return k, v

    def forward(self, x: Tensor, source: Tensor, time: Phase, source_time: Phase, sight: Sight) -> Tensor:
        """What to add to x [B,F,N,width] from source [B,F,M,source].

        Both turn by time alone, so towers with different grids meet in the one coordinate that they share.
        """
        at_rest, q, k, v = self.enter(x, source, time, source_time)
        if sight.past is not None:
            k, v = sight.past.with_current(k, v)
        sink = Sink(at_rest, *sight.sink) if sight.sink is not None else None
        seen = self.exchange.whole_heads(thin_attention(q, k, v, sight.mask, sink))
        return self.leave(seen.reshape(x.shape))

    def enter(
        self, x: Tensor, source: Tensor, time: Phase, source_time: Phase
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries at rest and turned, of x; keys turned and values, of source: [...,H,d] each."""
        at_rest = self.norm_q(self.q(self.norm(x))).unflatten(-1, (self.heads, -1))
        at_rest = self.exchange.part_of_heads(at_rest)
        k, v = self.keys(source)
        return at_rest, rotate(at_rest, time), rotate(k, source_time), v

    def leave(self, seen: Tensor) -> Tensor:
        """What was seen, through the gate."""
        return (self.gate.float() * self.out(seen).float()).to(seen.dtype)


class Clock(NamedTuple):
    """Time phases of both token streams, in the rotary frequencies of each tower's heads."""

    video_in_video: Phase
    struct_in_video: Phase
    video_in_struct: Phase
    struct_in_struct: Phase


class Bridge(nn.Module):
    """One exchange between the towers, in one direction or both, from the states before their blocks."""

    def __init__(self, video: TowerConfig, struct: TowerConfig, direction: str, eps: float):
        super().__init__()
        self.to_video = self.to_struct = None
        if direction != "video_to_struct":
            self.to_video = Gaze(video.width, struct.width, video.heads, eps)
        if direction != "struct_to_video":
            self.to_struct = Gaze(struct.width, video.width, struct.heads, eps)

    def forward(
        self, video: Tensor, struct: Tensor, clock: Clock, video_sight: Sight, struct_sight: Sight
    ) -> tuple[Tensor, Tensor]:
        """New states of video [B,F,N,V] and struct [B,F,4,S]; `video_sight` is what the video tower sees of struct."""
        return self.for_video(video, struct, clock, video_sight), self.for_struct(video, struct, clock, struct_sight)

    def for_video(self, video: Tensor, struct: Tensor, clock: Clock, sight: Sight) -> Tensor:
        """The new state of video, from the old ones."""
        if self.to_video is None:
            return video
        return video + self.to_video(video, struct, clock.video_in_video, clock.struct_in_video, sight)

    def for_struct(self, video: Tensor, struct: Tensor, clock: Clock, sight: Sight) -> Tensor:
        """The new state of struct, from the old ones."""
        if self.to_struct is None:
            return struct
        return struct + self.to_struct(struct, video, clock.struct_in_struct, clock.video_in_struct, sight)

    def reference(self, video: Tensor) -> KeyValue | None:
        """Keys and values of the reference picture's state [B,N,V] before this layer, for the struct tower."""
        return None if self.to_struct is None else self.to_struct.keys(video)
