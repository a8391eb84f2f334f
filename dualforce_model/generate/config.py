"""What can be chosen when generating. Beside checkpoint, picture and sound, every field decides the video's bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dualforce_model.config import ConfigError

RANGES = {  # beyond, nothing is drawn but noise, or nothing moves in most steps
    "struct_lead": (0.0, 2.0),
    "shift": (0.01, 100.0),
    "stagger": (0.0, 2.0),
    "guidance_audio": (0.0, 20.0),
    "guidance_reference": (0.0, 20.0),
    "guidance_text": (0.0, 20.0),
}


@dataclass(frozen=True)
class GenerateConfig:
    """How a video is drawn from the model.

    steps               denoising steps per latent frame (160 ms)
    order               1: Euler; 2: Heun, which looks twice per step
    struct_lead         how far the struct stream runs ahead of the video, as a share of its way ("structure first"); at most 2
    shift               above 1, more of the steps are spent at high noise; 0.01 to 100
    chunk               latents that are denoised together: more video per pass, and as much more latency
    stagger             within a chunk, how far each latent stays behind the one before it, as a share of its way; at most 2
    context_sigma       noise in which past latents are remembered; 0: clean. What is given out is never touched
    guidance_audio      1 is off and costs nothing; above 1 (at most 20) the sound is followed more strictly than in the data
    guidance_reference  the same for the picture
    guidance_text       the same for the text, where there is one
    window              latents that a latent sees, itself included; null: as many as in a training window,
                        or as the model was made for where that is fewer
    seconds             use only the beginning of the sound; null: all of it
    max_seconds         longer sound is refused
    seed                the same seed gives the same video
    threads             CPU threads; another number rounds otherwise (and small models are fastest with one)
    precision           of the weights; null: bfloat16 on a GPU, float32 elsewhere
    compiled            fuse the model's small steps, which takes a minute at first; null: on a GPU
    """

    steps: int = 10
    order: Literal[1, 2] = 1
    struct_lead: float = 0.5
    shift: float = 1.0
    chunk: int = 1
    stagger: float = 0.0
    context_sigma: float = 0.0
    guidance_audio: float = 1.0
    guidance_reference: float = 1.0
    guidance_text: float = 1.0
    window: int | None = None
    seconds: float | None = None
    max_seconds: float = 600.0
    seed: int = 0
    threads: int = 1
    precision: Literal["float32", "bfloat16"] | None = None
    compiled: bool | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.threads, self.chunk) < 1:
            raise ConfigError(f"need steps, threads and chunk >= 1, got {self.steps}, {self.threads} and {self.chunk}")
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:  # nan is in no range
                raise ConfigError(f"{name} is {low:g} to {high:g}, got {getattr(self, name)}")
        if not 0 <= self.context_sigma < 1:
            raise ConfigError(f"context_sigma is in [0, 1), got {self.context_sigma}")
        if self.window is not None and self.window < 1:
            raise ConfigError(f"window: a latent sees at least itself, got {self.window}")
        for name in ("seconds", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is a positive number, got {value}")
