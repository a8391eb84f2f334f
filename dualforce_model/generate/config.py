"""What can be chosen when generating. Beside checkpoint, picture and sound, every field decides the video's bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dualforce_model.config import ConfigError


@dataclass(frozen=True)
class GenerateConfig:
    """How a video is drawn from the model.

    steps               denoising steps per latent frame (160 ms)
    order               1: Euler; 2: Heun, which looks twice per step
    struct_lead         how far the struct stream runs ahead of the video, as a share of its way ("structure first")
    shift               above 1, more of the steps are spent at high noise
    chunk               latents that are denoised together: more video per pass, and as much more latency
    stagger             within a chunk, how far each latent stays behind the one before it, as a share of its way
    context_sigma       noise in which past latents are remembered; 0: clean. What is given out is never touched
    guidance_audio      1 is off and costs nothing; above 1 the sound is followed more strictly than in the data
    guidance_reference  the same for the picture
    guidance_text       the same for the text, where there is one
    window              latents that a latent sees, itself included; null: as many as in a training window
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
        if min(self.steps, self.threads, self.chunk) < 1 or self.shift <= 0:
            raise ConfigError(
                "need steps, threads and chunk >= 1 and shift > 0, "
                f"got {self.steps}, {self.threads}, {self.chunk}, {self.shift}"
            )
        if min(self.struct_lead, self.stagger) < 0 or not 0 <= self.context_sigma < 1:
            raise ConfigError(
                "need struct_lead and stagger >= 0 and context_sigma in [0, 1), "
                f"got {self.struct_lead}, {self.stagger}, {self.context_sigma}"
            )
        if self.window is not None and self.window < 1:
            raise ConfigError(f"window: a latent sees at least itself, got {self.window}")
        if self.max_seconds <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise ConfigError("seconds and max_seconds are positive")
