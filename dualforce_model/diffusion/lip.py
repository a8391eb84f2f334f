"""Do these lips say this sound? A contrastive scorer on mouth latents and audio, and the loss that a frozen one gives.

B batch, F latent frames, E embedding size, A audio feature size. Source of the idea: SyncNet (Chung & Zisserman 2016);
negatives are all other instants of the same clip (time-shifted sound) and all instants of the other clips.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MOUTH = 8  # cells on a side of the resampled mouth region


@dataclass(frozen=True)
class LipConfig:
    """Sizes of the scorer."""

    audio_dim: int = 1024
    audio_span: int = 28  # audio features that one latent hears
    width: int = 128
    embedding: int = 64
    latent_channels: int = 16


class LipScorer(nn.Module):
    """Embeds the mouth and the sound of each latent frame on one sphere."""

    def __init__(self, config: LipConfig):
        super().__init__()
        W = config.width
        self.mouth = nn.Sequential(
            nn.Conv2d(config.latent_channels, W, 3, padding=1), nn.GELU(),
            nn.Conv2d(W, W, 3, stride=2, padding=1), nn.GELU(), nn.Flatten(),
            nn.Linear(W * (MOUTH // 2) ** 2, config.embedding),
        )  # fmt: skip
        self.sound = nn.Sequential(
            nn.LayerNorm(config.audio_dim), nn.Linear(config.audio_dim, W), nn.GELU(), nn.Flatten(2),
            nn.Linear(config.audio_span * W, config.embedding),
        )  # fmt: skip
        self.temperature = nn.Parameter(torch.tensor(0.07).log())

    def logits(self, latents: Tensor, boxes: Tensor, audio: Tensor) -> Tensor:
        """Similarity of every mouth to every sound: [B·F, B·F].

        latents [B,16,F,H,W], boxes [B,F,4] mouth (left, top, right, bottom) as shares of the picture, audio [B,F,span,A].
        """
        eyes = functional.normalize(self.mouth(crop(latents, boxes)), dim=-1)
        ears = functional.normalize(self.sound(audio).flatten(0, 1), dim=-1)
        return eyes @ ears.T / self.temperature.exp()

    def loss(self, latents: Tensor, boxes: Tensor, audio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE both ways over frames where mask [B,F], and the share of mouths whose own sound scores best."""
        keep = mask.flatten().nonzero()[:, 0]
        scores = self.logits(latents, boxes, audio)[keep][:, keep].float()
        own = torch.arange(len(keep), device=scores.device)
        loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
        return loss, (scores.argmax(1) == own).float().mean()

    def freeze(self) -> LipScorer:
        """From now on a judge: gradients pass through to the latents, its own weights stay."""
        return self.eval().requires_grad_(False)


def crop(latents: Tensor, boxes: Tensor) -> Tensor:
    """Mouth regions of latents [B,16,F,H,W] at boxes [B,F,4], resampled to [B·F,16,8,8], differentiably."""
    frames = latents.transpose(1, 2).flatten(0, 1).float()
    left, top, right, bottom = boxes.flatten(0, 1).float().unbind(-1)
    step = (torch.arange(MOUTH, device=boxes.device) + 0.5) / MOUTH
    x = left[:, None] + (right - left)[:, None] * step
    y = top[:, None] + (bottom - top)[:, None] * step
    grid = torch.stack([x[:, None].expand(-1, MOUTH, -1), y[:, :, None].expand(-1, -1, MOUTH)], -1)
    return functional.grid_sample(frames, 2 * grid - 1, align_corners=False, padding_mode="border")
