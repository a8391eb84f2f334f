"""What a step was worth: tokens and arithmetic per second, memory."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

import torch

from dualforce_model.configs.shape import ModelConfig
from dualforce_model.data import Sample
from dualforce_model.model.flops import step_flops
from dualforce_model.timeline import SPATIAL

NULL_TEXT = 1  # text tokens of a window without text


def text_tokens(sample: Sample) -> int:
    """Text tokens of a batch's windows, on average: real ones, no padding."""
    if "text_mask" not in sample:
        return NULL_TEXT
    return round(sample["text_mask"].sum(1).clamp(min=NULL_TEXT).double().mean().item())


class Throughput:
    """Figures of a training on pictures of `size` pixels, by `world` processes, of which this one uses `device`."""

    def __init__(self, shape: ModelConfig, card: Mapping[str, Any], world: int, device: torch.device):
        self.shape, self.world, self.device = shape, world, device
        self.tokens = (card["size"] // SPATIAL // shape.patch) ** 2  # of a video latent

    def numbers(self, windows: int, frames: int, text: int, seconds: float) -> dict[str, float]:
        """Of a step of `windows` windows (all processes together) of `frames` latents and `text` text tokens.

        tokens_per_s: video and struct tokens, all processes together; tflops: of one process, useful work alone
        (forward and backward, nothing masked, no recomputation); memory_gib: peak of this process, of the GPU if it has
        one.
        """
        struct = 0 if self.shape.struct is None else self.shape.struct_tokens
        tokens = windows * frames * (self.tokens + struct)
        work = step_flops(self.shape, frames, windows, self.tokens, text)
        return {
            "tokens_per_s": round(tokens / seconds, 1),
            "tflops": round(work / seconds / self.world / 1e12, 4),
            "memory_gib": round(self._memory() / 2**30, 3),
        }

    def _memory(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
