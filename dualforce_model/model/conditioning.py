"""What steers the towers: the noise level of each frame, the text, the sound, and the learned nulls of each.

B batch, F latent frames, D width, S text tokens, A audio feature size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualforce_model.model.norms import LayerNorm

FREQUENCIES = 256  # sinusoids of the noise level, as in Wan 2.1
STEPS = 1000.0  # Wan's time step for sigma 1


@dataclass
class Conditions:
    """What a batch is given. None stands for "not given": the learned null takes its place.

    text [B,S,text_dim] with text_mask [B,S] (True = a real token; padding is never seen)
    audio [B, left + 8F + lookahead, audio_dim], the features from `ModelConfig.audio_left` before the first latent to
        `audio_lookahead` after the last; audio_valid of the same length says which exist (the others become the null:
        before the clip, after its end, the six empty slots of latent 0)
    reference [B,16,H,W] latent of one still picture, normalised like the video
    drop_text, drop_audio, drop_reference [B] bool: samples for which that condition is replaced by its null
    """

    text: Tensor | None = None
    text_mask: Tensor | None = None
    audio: Tensor | None = None
    audio_valid: Tensor | None = None
    reference: Tensor | None = None
    drop_text: Tensor | None = None
    drop_audio: Tensor | None = None
    drop_reference: Tensor | None = None


class NoiseLevel(nn.Module):
    """Sigma [B,F] in [0,1] to an embedding [B,F,D] for the head and a modulation [B,F,6,D] for the blocks.

    Always in fp32: neighbouring noise levels must stay apart. The modulation starts at zero.
    """

    def __init__(self, width: int):
        super().__init__()
        self.hidden, self.out = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(sigma.device.type, enabled=False):
            rate = 10_000.0 ** (-torch.arange(FREQUENCIES // 2, device=sigma.device) / (FREQUENCIES // 2))
            turn = STEPS * sigma.float()[..., None] * rate
            waves = torch.cat([turn.cos(), turn.sin()], -1).to(self.hidden.weight.dtype)
            level = self.out(functional.silu(self.hidden(waves)))
            steer = self.modulation(functional.silu(level))
        return level.float(), steer.unflatten(-1, (6, -1)).float()


class Text(nn.Module):
    """Text embeddings [B,S,text_dim] to tokens [B,S,D] with their mask; without text, one learned null token."""

    def __init__(self, text_dim: int, width: int):
        super().__init__()
        self.hidden, self.out = nn.Linear(text_dim, width), nn.Linear(width, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, given: Conditions, batch: int) -> tuple[Tensor, Tensor]:
        null = self.null.expand(batch, 1, -1)
        if given.text is None:
            return null, torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        text = given.text.to(self.hidden.weight.dtype)
        tokens = self.out(functional.gelu(self.hidden(text), approximate="tanh"))
        mask = given.text_mask
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        dropped = ~mask.any(1)
        if given.drop_text is not None:
            dropped = dropped | given.drop_text
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        mask = torch.where(dropped[:, None], first, mask)
        return torch.where(dropped[:, None, None], null.to(tokens.dtype), tokens), mask


class Audio(nn.Module):
    """Audio features [B,n,A] to tokens [B,n,D], once per step for all layers; missing ones become the learned null."""

    def __init__(self, audio_dim: int, width: int, eps: float):
        super().__init__()
        self.norm = LayerNorm(audio_dim, eps)
        self.hidden, self.out = nn.Linear(audio_dim, width), nn.Linear(width, width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, audio: Tensor | None, valid: Tensor | None, drop: Tensor | None, batch: int, n: int) -> Tensor:
        """`batch` and `n` give the shape where there is no sound at all."""
        if audio is None:
            return self.null.expand(batch, n, -1)
        tokens = self.out(functional.gelu(self.hidden(self.norm(audio.to(self.hidden.weight.dtype)))))
        missing = torch.zeros(audio.shape[:2], dtype=torch.bool, device=audio.device)
        if valid is not None:
            missing = missing | ~valid
        if drop is not None:
            missing = missing | drop[:, None]
        return torch.where(missing[..., None], self.null.to(tokens.dtype), tokens)
