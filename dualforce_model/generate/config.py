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
    guidance_audio      1 is off and costs nothing; above 1 the sound is followed more strictly than in the data
    guidance_reference  the same for the picture
    window              latents that a latent sees, itself included; null: as many as in a training window
    seconds             use only the beginning of the sound; null: all of it
    max_seconds         longer sound is refused
    seed                the same seed gives the same video
    threads             CPU threads; another number rounds otherwise (and small models are fastest with one)
    """

    steps: int = 10
    order: Literal[1, 2] = 1
    struct_lead: float = 0.5
    shift: float = 1.0
    guidance_audio: float = 1.0
    guidance_reference: float = 1.0
    window: int | None = None
    seconds: float | None = None
    max_seconds: float = 600.0
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.threads) < 1 or self.struct_lead < 0 or self.shift <= 0:
            raise ConfigError(
                "need steps and threads >= 1, struct_lead >= 0, shift > 0, "
                f"got {self.steps}, {self.threads}, {self.struct_lead}, {self.shift}"
            )
        if self.window is not None and self.window < 1:
            raise ConfigError(f"window: a latent sees at least itself, got {self.window}")
        if self.max_seconds <= 0 or (self.seconds is not None and self.seconds <= 0):
            raise ConfigError("seconds and max_seconds are positive")
