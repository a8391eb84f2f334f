"""Cutting the sound of a window out of a clip's audio features."""

from __future__ import annotations

import torch
from torch import Tensor

from dualforce_model.configs.shape import ModelConfig
from dualforce_model.timeline import audio_heard


def audio_window(features: Tensor, start: int, length: int, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """The features that latents start .. start+length-1 hear, and which of them exist.

    features [n,A] of a whole clip (n = 2T); gives [left+8·length+lookahead, A], zero where missing, and bool of the
    same length. The layout that `Conditions.audio` wants, without its batch axis.
    """
    wanted = audio_heard(start, length, config.audio_left, config.audio_lookahead)
    index = torch.arange(wanted.start, wanted.stop, device=features.device)
    valid = (index >= 0) & (index < features.shape[0])
    audio = features[index.clamp(0, features.shape[0] - 1)]
    return audio.masked_fill(~valid[:, None], 0.0), valid
