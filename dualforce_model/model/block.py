"""One transformer block: self-attention, text, audio, feed-forward; with or without a cache of past frames.

B batch, F frames, N tokens per frame, D width, H heads, d head dim, S text tokens, L audio features per frame.
The layout of the sublayers and their weights is that of Wan 2.1 (Wan Team 2025), whose blocks can be loaded here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.model.attention import Sink, dense_attention, frame_causal_attention, thin_attention
from dualforce_model.model.cache import RingView
from dualforce_model.model.checkpointing import Checkpointing, checkpointed
from dualforce_model.model.exchange import HERE, Exchange
from dualforce_model.model.heads import turned_heads
from dualforce_model.model.norms import LayerNorm, RMSNorm, gated, modulated
from dualforce_model.model.rotary import Phase, rotate
from dualforce_model.timeline import AUDIO_PER_LATENT

KeyValue = tuple[Tensor, Tensor]  # k, v [B,G,M,H,d]


class Places(NamedTuple):
    """Where the tokens of a tower stand."""

    full: Phase  # time and space [B,F,N,<=d/2]
    rest: Phase | None  # space alone [N,d/2]; None where there is no space
    time: Phase  # time alone [B,F,N or 1,t/2]


class Heard(NamedTuple):
    """Keys and values of the conditions, projected once per block: text [B,1,S,H,d], audio [B,F,L,H,d]."""

    text: KeyValue
    text_mask: Tensor  # [B,1,1,S]
    audio: KeyValue | None


class Source(NamedTuple):
    """What a block reads its conditions from: text tokens [B,S,D] with mask [B,S], and the tower's sound."""

    text: Tensor
    text_mask: Tensor
    audio: Tensor | None  # [B,left+8F+lookahead,D]
    audio_time: Phase
    span: int  # audio features that a latent hears


class Still(NamedTuple):
    """The reference picture before a block: its tokens [B,N,D], and the modulation [B,1,6,D] of no noise."""

    x: Tensor
    modulation: Tensor


class SelfAttention(nn.Module):
    """Attention of a tower to itself: causal by frame, plus the sink."""

    exchange: Exchange = HERE

    def __init__(self, width: int, heads: int, eps: float, window: int | None):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = RMSNorm(width, eps), RMSNorm(width, eps)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys normed over the whole width, and values; each [..., H, d], not yet turned."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (part.reshape(*x.shape[:-1], self.heads, -1) for part in (q, k, v))
        return q, k, v

    def heads_of(self, x: Tensor, full: Phase) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of x [B,F,N,D] turned to their places, and values: [B,F,N,H,d] each."""
        q, k, v = self.project(x)
        return rotate(q, full), rotate(k, full), v

    def forward(self, x: Tensor, places: Places, sink: KeyValue | None, mask: Tensor | None) -> Tensor:
        """Map x [B,F,N,D] to the same shape: a window with its sink (video), or a window with a mask (struct).

        `sink`: the reference's keys and values; `mask` [B|1,F,G,M]: keys that are seen.
        """
        if sink is not None:
            assert places.rest is not None
            weights = self.norm_q.weight, self.norm_k.weight
            q, still, k, v = turned_heads(self.qkv(x), weights, self.norm_q.eps, self.heads, places.full, places.rest)
            q, still, k, v = self.exchange.to_heads(q, still, k, v)
            seen = frame_causal_attention(q, k, v, Sink(still, *sink), self.window)
            return self.out(self.exchange.to_tokens(seen).reshape(x.shape))
        q, k, v = self.heads_of(x, places.full)
        return self.out(thin_attention(q, k, v, mask).reshape(x.shape))

    def reference(self, x: Tensor, rest: Phase) -> tuple[Tensor, KeyValue]:
        """The reference picture [B,N,D] sees itself; also gives its keys and values, at rest in time."""
        q, (k, v) = self.sink(x, rest)
        return self.out(self.exchange.to_tokens(dense_attention(q, k, v)).reshape(x.shape)), (k, v)

    def sink(self, x: Tensor, rest: Phase) -> tuple[Tensor, KeyValue]:
        """Queries, and keys with values, of the reference picture [B,N,D]: [B,N,H,d] each."""
        q, k, v = self.project(x)
        q, k, v = self.exchange.to_heads(rotate(q, rest), rotate(k, rest), v)
        return q, (k, v)


class CrossAttention(nn.Module):
    """Attention to a few condition tokens. The output projection starts at zero, so it is silent at first."""

    def __init__(self, width: int, heads: int, eps: float):
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.norm_q, self.norm_k = RMSNorm(width, eps), RMSNorm(width, eps)
        self.out = nn.Linear(width, width)

    def hear(self, source: Tensor) -> KeyValue:
        """Keys and values [B,S,H,d] of source [B,S,D]."""
        k, v = self.kv(source).chunk(2, -1)
        return self.norm_k(k).unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, heard: KeyValue, mask: Tensor | None, time: Phase | None) -> Tensor:
        """Map x [B,F,N,D] to the same shape, given keys and values [B,1,S,H,d] for all frames, or [B,F,L,H,d] with a `time`."""
        q = self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1))
        if time is not None:  # each frame has its own window of keys: frames become batch
            q = rotate(q, time).flatten(0, 1)[:, None]
            heard = tuple(part.flatten(0, 1)[:, None] for part in heard)  # type: ignore[assignment]
        return self.out(thin_attention(q, *heard, mask).reshape(x.shape))

    def of_one(self, value: Tensor) -> Tensor:
        """What any token takes from a single one, the null say: [B,1,1,D] of its value [B,1,1,H,d].

        Its weight is 1 whoever asks, so no query is made: a seventh of a pass without text.
        """
        return self.out(value.flatten(-2))


class Block(nn.Module):
    """x [B,F,N,D] to the same shape, given the modulation [B,F,6,D] of its frames' noise levels."""

    def __init__(self, width: int, heads: int, ffn: int, hears_audio: bool, eps: float, window: int | None):
        super().__init__()
        self.eps = eps
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.attention = SelfAttention(width, heads, eps, window)
        self.norm_text, self.text = LayerNorm(width, eps), CrossAttention(width, heads, eps)
        if hears_audio:
            self.norm_audio, self.audio = LayerNorm(width, eps), CrossAttention(width, heads, eps)
        self.hears_audio = hears_audio
        self.ffn_in, self.ffn_out = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.checkpointing: Checkpointing = "none"

    def hear(self, text: Tensor, text_mask: Tensor, audio: Tensor | None, audio_time: Phase, span: int) -> Heard:
        """Project text [B,S,D] and audio [B,left+8F+lookahead,D], whose windows of `span` features step by latent."""
        return Heard(self.read(text), text_mask[:, None, None], self.listen(audio, audio_time, span))

    def read(self, text: Tensor) -> KeyValue:
        """Keys and values [B,1,S,H,d] of text [B,S,D]."""
        keys, values = self.text.hear(text)
        return keys[:, None], values[:, None]

    def listen(self, audio: Tensor | None, audio_time: Phase, span: int) -> KeyValue | None:
        """Keys and values [B,F,span,H,d] of audio [B,left+8F+lookahead,D]; None in a block that does not hear."""
        if not self.hears_audio or audio is None:
            return None
        k, v = self.audio.hear(audio)
        return windows(rotate(k, audio_time), span), windows(v, span)

    def window(
        self, x: Tensor, modulation: Tensor, places: Places, source: Source, still: Still | None, last: bool,
        mask: Tensor | None,
    ) -> tuple[Tensor, Still | None]:  # fmt: skip
        """A whole layer of a window in one call, so that weights which are spread over processes are gathered once.

        Conditions are read, the reference picture looks at itself (where there is one), the frames look at all.
        """
        heard = self.hear(*source)
        sink = None
        if still is not None:
            assert places.rest is not None
            picture, sink = self.reference(still.x, still.modulation, places.rest, last)
            still = still._replace(x=picture)
        return self.forward(x, modulation, places, heard, sink, mask), still

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        places: Places,
        heard: Heard,
        sink: KeyValue | None = None,
        mask: Tensor | None = None,
        past: RingView | None = None,
    ) -> Tensor:
        if past is not None:  # beside what is remembered, nothing here changes its shape along a rollout
            q, k, v = self.enter(x, modulation, places.full)
            return self.leave(x, past.attend(q, k, v, mask), modulation, places.time, heard)
        given = (x, modulation, places, heard, sink, mask)
        return checkpointed(self.transform, self.checkpointing if self.training else "none", *given)

    def transform(
        self,
        x: Tensor,
        modulation: Tensor,
        places: Places,
        heard: Heard,
        sink: KeyValue | None,
        mask: Tensor | None,
    ) -> Tensor:
        """The sublayers, one after the other."""
        steered = self.steer(modulation)
        change = self.attention(modulated(x, steered[0], steered[1], self.eps), places, sink, mask)
        return self.after_attention(x, change, steered, places.time, heard)

    def after_attention(
        self, x: Tensor, change: Tensor, steered: tuple[Tensor, ...], time: Phase, heard: Heard
    ) -> Tensor:
        """Text, audio and feed-forward, on x with what self-attention adds to it."""
        _, _, gate, ffn_shift, ffn_scale, ffn_gate = steered
        x = gated(x, gate, change)
        if heard.text[1].shape[2] == 1 and not self.training:  # in training every weight wants its gradient, if only 0
            x = x + self.text.of_one(heard.text[1])
        else:
            x = x + self.text(self.norm_text(x), heard.text, heard.text_mask, None)
        if heard.audio is not None:
            x = x + self.audio(self.norm_audio(x), heard.audio, None, time)
        return gated(x, ffn_gate, self.feed_forward(modulated(x, ffn_shift, ffn_scale, self.eps)))

    def enter(self, x: Tensor, modulation: Tensor, full: Phase) -> tuple[Tensor, Tensor, Tensor]:
        """Up to self-attention, for a rollout: queries, keys and values [B,F,N,H,d] of x [B,F,N,D]."""
        shift, scale = self.steer(modulation)[:2]
        return self.attention.heads_of(modulated(x, shift, scale, self.eps), full)

    def leave(self, x: Tensor, seen: Tensor, modulation: Tensor, time: Phase, heard: Heard) -> Tensor:
        """From what self-attention saw [B,F,N,H,d] to the end of the block."""
        change = self.attention.out(seen.reshape(x.shape))
        return self.after_attention(x, change, self.steer(modulation), time, heard)

    def reference(self, x: Tensor, modulation: Tensor, rest: Phase, last: bool) -> tuple[Tensor, KeyValue]:
        """The block for the reference picture x [B,N,D] at modulation [B,1,6,D], and its keys and values.

        It hears neither text nor audio and sees no frame: its keys depend on the picture alone and never grow old.
        In the last block nothing asks for more than the keys.
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.steer(modulation)
        x = x[:, None]
        still = modulated(x, shift, scale, self.eps)[:, 0]
        if last:
            return x[:, 0], self.attention.sink(still, rest)[1]
        change, sink = self.attention.reference(still, rest)
        x = gated(x, gate, change[:, None])
        return gated(x, ffn_gate, self.feed_forward(modulated(x, ffn_shift, ffn_scale, self.eps)))[:, 0], sink

    def steer(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate [B,F,1,D] of the attention and of the feed-forward, in fp32."""
        return (modulation.float() + self.modulation.float()).unsqueeze(-2).unbind(2)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.ffn_out(functional.gelu(self.ffn_in(x), approximate="tanh"))


def windows(x: Tensor, span: int) -> Tensor:
    """Overlapping windows of x [B,8(F-1)+span,H,d], one per latent: [B,F,span,H,d]."""
    # copied apart: a compiled function may give its gradient the layout of its output, and this one overlaps itself
    return x.unfold(1, span, AUDIO_PER_LATENT).permute(0, 1, 4, 2, 3).contiguous()
