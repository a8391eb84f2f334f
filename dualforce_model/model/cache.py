"""The memory of a rollout: keys and values of past frames in preallocated rings, and everything a frame is given.

B batch, W frames a frame may see (itself included), M tokens per frame, H heads, d head dim.

A frame owns one slot of every ring while it is denoised and overwrites it at each step; it is *committed* when it is
final, and only then does the next frame take the next slot. So denoising never appends, nothing is concatenated, and
the oldest frame leaves whole, exactly when it leaves the window. Slots are in no order in time: keys carry their own
absolute positions. All tensors keep their addresses over a rollout, so that a CUDA graph can be replayed on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

if TYPE_CHECKING:
    from dualforce_model.model.block import Heard, KeyValue, Places
    from dualforce_model.model.bridge import Clock


class RingView(NamedTuple):
    """The part of one layer's ring that the current frame sees: k, v [B,G,M,H,d], and the slot that it owns [1]."""

    k: Tensor
    v: Tensor
    slot: Tensor

    def with_current(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the current frame's k and v [B,1,M,H,d] into its slot; gives all visible keys and values."""
        return self.k.index_copy_(1, self.slot, k.to(self.k.dtype)), self.v.index_copy_(
            1, self.slot, v.to(self.v.dtype)
        )


class Ring:
    """Keys and values of one layer: `front` permanent slots, then W slots that are used in turn."""

    def __init__(self, batch: int, window: int, tokens: int, heads: int, head_dim: int, like: Tensor, front: int = 0):
        self.k = like.new_zeros(batch, front + window, tokens, heads, head_dim)
        self.v = torch.zeros_like(self.k)
        self.front = front

    def view(self, slot: Tensor, frames: int) -> RingView:
        """The permanent slots and the first `frames` others; `slot` counts from the first slot of all."""
        return RingView(self.k[:, : self.front + frames], self.v[:, : self.front + frames], slot)


@dataclass
class Cache:
    """The state of one rollout of B samples in step. Made by `new_cache`, moved on by `commit_frame`."""

    window: int
    grid: tuple[int, int]  # patches per latent: h, w
    start: int  # latent index of the first frame in its clip
    video: list[Ring]  # per video block; slot 0 is the reference, turned to the current frame's time
    struct: list[Ring]  # per struct block
    bridge_video: list[Ring | None]  # per bridge: video keys for the struct tower
    bridge_struct: list[Ring | None]  # per bridge: struct keys for the video tower
    sink: list[KeyValue]  # per video block: the reference's k, v at rest in time [B,N,H,d]
    bridge_sink: list[KeyValue | None]
    reference: Tensor | None  # condition channels [B,16,H,W]
    video_text: tuple[Tensor, Tensor]  # tokens [B,S,D] and mask [B,S]
    slot: Tensor  # [1] int64: the slot that the current frame owns
    slot_after_front: Tensor  # [1] int64: the same where the reference stands in front
    latents: Tensor  # [B] int64: latent index of the current frame
    struct_mask: Tensor  # [B,1,W,M] bool: struct keys that exist
    drop_audio: Tensor | None  # [B] bool: samples whose sound is replaced by the learned null
    drop_reference: Tensor | None  # [B] bool: samples that have no reference
    frame: int = 0  # frames committed so far
    begun: bool = False
    struct_text: tuple[Tensor, Tensor] | None = None
    # what the current frame is given; rewritten in place by `begin_frame`
    video_places: Places | None = None
    struct_places: Places | None = None
    clock: Clock | None = None
    video_heard: list[Heard] = field(default_factory=list)
    struct_heard: list[Heard] = field(default_factory=list)

    @property
    def latent(self) -> int:
        """Index in the clip of the frame that is denoised now."""
        return self.start + self.frame

    @property
    def visible(self) -> int:
        """Frames that the current frame sees, itself included."""
        return min(self.frame + 1, self.window)

    def hold(self, name: str, value: Any) -> None:
        """Keep `value` (tensors nested in tuples and lists) under `name`, in the tensors that are there already."""
        held = getattr(self, name)
        if not held:
            setattr(self, name, tree_map_only(Tensor, torch.clone, value))
            return
        for old, new in zip(tree_leaves(held), tree_leaves(value), strict=True):
            if old is not None:
                old.copy_(new)
