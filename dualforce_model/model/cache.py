"""The memory of a rollout: keys and values of past frames in preallocated rings, and everything a frame is given.

B batch, C frames that are denoised together (the chunk, mostly 1), W frames a frame may see (itself included),
R = W+C-1 slots of a ring, M tokens per frame, H heads, d head dim.

A chunk owns C slots of every ring while it is denoised and overwrites them at each step; it is *committed* when it is
final, and only then does the next chunk take the next slots. So denoising never appends, nothing is concatenated, and
the oldest frames leave whole, exactly when they leave the window. Slots are in no order in time: keys carry their own
absolute positions. All tensors keep their addresses over a rollout, so that a CUDA graph can be replayed on them; their
shapes depend on nothing but `Cache.filled`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from dualforce_model.model.attention import dense_attention, thin_attention

if TYPE_CHECKING:
    from dualforce_model.model.block import KeyValue, Places
    from dualforce_model.model.bridge import Clock


class RingView(NamedTuple):
    """The part of one layer's ring that the current chunk sees.

    k, v [B,G,M,H,d]; slot [C]: the slots that it owns; order: per frame of the chunk the slots that it sees, or None
    where a single frame sees them all.
    """

    k: Tensor
    v: Tensor
    slot: Tensor
    order: list[Tensor] | None = None

    def with_current(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the chunk's k and v [B,C,M,H,d] into its slots; gives all visible keys and values."""
        put(self.k, self.slot, k)
        put(self.v, self.slot, v)
        return self.k, self.v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Queries q [B,C,M,H,d] of the chunk, with its own k and v stored, see the ring: the same shape.

        With a `mask` [B|1,C,G,M] (few tokens) what exists and is visible; without one, `order` or all there is.
        """
        k, v = self.with_current(k, v)
        if mask is not None:
            return thin_attention(q, k, v, mask)
        if self.order is None:
            return dense_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)).reshape(q.shape)
        frames = []
        for frame, seen in enumerate(self.order):
            keys, values = (x.index_select(1, seen).flatten(1, 2) for x in (k, v))
            frames.append(dense_attention(q[:, frame], keys, values))
        return torch.stack(frames, 1)


def put(ring: Tensor, slot: Tensor, new: Tensor) -> None:
    """Write new [B,C,M,H,d] into slots [C] of a ring [B,G,M,H,d], eight bytes at a time where they fit.

    A copy by index takes its time per number: a frame of half-precision keys 8 us on an H200, where 3 MB need 1.
    Compiled, the copy is a kernel of the compiler's own.
    """
    new = new.to(ring.dtype)
    if not torch.compiler.is_compiling() and _in_eights(ring) and _in_eights(new):
        ring, new = ring.view(torch.int64), new.view(torch.int64)
    ring.index_copy_(1, slot, new)


def _in_eights(x: Tensor) -> bool:
    n = 8 // x.element_size()
    return x.stride(-1) == 1 and not any(part % n for part in (x.shape[-1], x.storage_offset(), *x.stride()[:-1]))


class Ring:
    """Keys and values of one layer [B,front+R,M,H,d]: `front` permanent slots, then R slots that are used in turn.

    In memory a head's tokens lie together. Samples and heads are then one batch of products, which read the ring where it
    is; with heads innermost each product of more than one sample copied the whole of it first.
    """

    def __init__(self, batch: int, slots: int, tokens: int, heads: int, head_dim: int, like: Tensor, front: int = 0):
        self.k, self.v = (
            like.new_zeros(batch, heads, front + slots, tokens, head_dim).permute(0, 2, 3, 1, 4) for _ in range(2)
        )
        self.front = front

    def view(self, slot: Tensor, frames: int, order: list[Tensor] | None = None) -> RingView:
        """The permanent slots and the first `frames` others; `slot` and `order` count from the first slot of all."""
        return RingView(self.k[:, : self.front + frames], self.v[:, : self.front + frames], slot, order)


@dataclass
class Cache:
    """The state of one rollout of B samples in step. Made by `new_cache`, moved on by `commit_frame`."""

    window: int
    chunk: int
    grid: tuple[int, int]  # patches per latent: h, w
    start: int  # latent index of the first frame in its clip
    video: list[Ring]  # per video block; the first C slots are the reference, turned to each current frame's time
    struct: list[Ring]  # per struct block
    bridge_video: list[Ring | None]  # per bridge: video keys for the struct tower
    bridge_struct: list[Ring | None]  # per bridge: struct keys for the video tower
    slot: Tensor  # [C] int64: the slots that the current chunk owns
    slot_after_front: Tensor  # [C] int64: the same where the reference stands in front
    order: Tensor  # [C,C+R] int64: slots of `video` rings that each frame of the chunk sees, its reference first
    visible: Tensor  # [C,R] bool: slots that each frame of the chunk sees
    latents: Tensor  # [B] int64: latent index of the chunk's first frame
    exists: Tensor  # [B,R,M] bool: struct keys that exist
    audio: Tensor  # [B,span,A]: the sound of the current chunk
    audio_valid: Tensor  # [B,span] bool
    frame: int = 0  # frames committed so far
    begun: bool = False
    # what holds for the whole rollout; rewritten in place by `restart`
    sink: list[KeyValue] = field(default_factory=list)  # per video block: the reference at rest in time [B,N,H,d]
    bridge_sink: list[KeyValue | None] = field(default_factory=list)
    reference: Tensor | None = None  # condition channels [B,16,H,W]
    drop_audio: Tensor | None = None  # [B] bool: samples whose sound is replaced by the learned null
    drop_reference: Tensor | None = None  # [B] bool: samples that have no reference
    video_text: list[KeyValue] = field(default_factory=list)  # per block
    struct_text: list[KeyValue] = field(default_factory=list)
    text_masks: list[Tensor] = field(default_factory=list)  # of the towers [B,1,1,S]
    # what the current chunk is given; rewritten in place by `prepare`
    video_places: Places | None = None
    struct_places: Places | None = None
    clock: Clock | None = None
    video_heard: list[KeyValue | None] = field(default_factory=list)
    struct_heard: list[KeyValue | None] = field(default_factory=list)

    @property
    def latent(self) -> int:
        """Index in the clip of the first frame that is denoised now."""
        return self.start + self.frame

    @property
    def slots(self) -> int:
        """Slots of a ring (R)."""
        return self.window + self.chunk - 1

    @property
    def filled(self) -> int:
        """Slots that hold a frame, those of the current chunk included. All shapes of a pass follow from it."""
        return min(self.frame + self.chunk, self.slots)

    def place(self) -> None:
        """Take the next chunk's slots, in time and in the rings; the only step that the host decides."""
        C, R, first = self.chunk, self.slots, self.frame
        owned = [(first + c) % R for c in range(C)]
        if C == 1:  # filling waits for nothing; the tables below are read for chunks only
            self.slot.fill_(owned[0])
            self.slot_after_front.fill_(owned[0] + 1)
        else:
            seen = [[(first + c - n) % R for n in range(self.frames_seen(c))] for c in range(C)]
            order = torch.zeros(C, C + R, dtype=torch.long)
            visible = torch.zeros(C, R, dtype=torch.bool)
            for c, slots in enumerate(seen):
                order[c, : 1 + len(slots)] = torch.tensor([c, *(C + slot for slot in slots)])
                visible[c, slots] = True
            self.slot.copy_(torch.tensor(owned))
            self.slot_after_front.copy_(torch.tensor(owned) + C)
            self.order.copy_(order)
            self.visible.copy_(visible)
        self.latents.fill_(self.latent)
        self.begun = True

    def frames_seen(self, c: int) -> int:
        """Frames that frame `c` of the chunk sees, itself included."""
        return min(self.frame + c + 1, self.window)

    def orders(self) -> list[Tensor] | None:
        """Per frame of the chunk the slots that it sees in a ring with the reference in front."""
        if self.chunk == 1:
            return None
        return [self.order[c, : 1 + self.frames_seen(c)] for c in range(self.chunk)]

    def hold(self, name: str, value: Any) -> None:
        """Keep `value` (tensors nested in tuples and lists) under `name`, in the tensors that are there already.

        Raises ValueError for another shape: a rollout is begun again with conditions like those it was made for.
        """
        held = getattr(self, name)
        if held is None or (isinstance(held, list) and not held):
            setattr(self, name, tree_map_only(Tensor, torch.clone, value))
            return
        for old, new in zip(tree_leaves(held), tree_leaves(value), strict=True):
            if (old is None) != (new is None) or (old is not None and old.shape != new.shape):
                raise ValueError(f"this rollout was made for another {name}: {_shape(old)}, got {_shape(new)}")
            if old is not None:
                old.copy_(new)


def _shape(x: Tensor | None) -> tuple[int, ...] | None:
    return None if x is None else tuple(x.shape)
