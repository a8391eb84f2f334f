"""The limits of a server, and what its sessions draw with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dualforce_model.config import ConfigError
from dualforce_model.generate import GenerateConfig

Option = Literal["seed", "steps", "guidance_audio", "guidance_reference"]


@dataclass(frozen=True)
class ServeConfig:
    """What a client may ask for. Beyond each limit it is refused, with a reason.

    sessions         at once; each has a cache beside the model, made before the first comes
    picture_bytes    of the picture's file
    picture_pixels   width times height, looked at before the picture is decoded
    session_seconds  from connecting to the end
    idle_seconds     that a client may leave the server waiting: for its next message, or to take a frame; while sound
                     of it is undrawn or frames are unsent, it is the client who waits
    queue_seconds    of sound that wait for the model; then the socket is not read until there is room
    queue_frames     that wait for the client; then its stream rests
    options          of GenerateConfig that a client may choose. Seed and steps use the caches that are there. Guidance of
                     its own is prepared for that session alone; on a GPU nobody is drawn in that time
    steps            most denoising steps a client may ask for; null: those of `generate`
    jpeg_quality     of the frames, unless the client asks for png
    origins          pages that may connect besides those of this machine, e.g. https://example.org
    generate         what is drawn with unless a client asks otherwise; its max_seconds limits the sound of a session
    """

    sessions: int = 4
    picture_bytes: int = 12_000_000
    picture_pixels: int = 50_000_000
    session_seconds: float = 1800.0
    idle_seconds: float = 30.0
    queue_seconds: float = 2.0
    queue_frames: int = 25
    options: tuple[Option, ...] = ("seed", "steps")
    steps: int | None = None
    jpeg_quality: int = 90
    origins: tuple[str, ...] = ()
    generate: GenerateConfig = field(default_factory=GenerateConfig)

    def __post_init__(self) -> None:
        for name in ("sessions", "picture_bytes", "picture_pixels", "session_seconds", "idle_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is positive, got {getattr(self, name)}")
        if self.queue_seconds < 0.5 or self.queue_frames < 4:
            raise ConfigError(
                "queues hold at least half a second of sound and the 4 frames of a latent, "
                f"got queue_seconds {self.queue_seconds:g} and queue_frames {self.queue_frames}"
            )
        if not 1 <= self.jpeg_quality <= 95:
            raise ConfigError(f"jpeg_quality is 1 to 95, got {self.jpeg_quality}")
        if self.steps is not None and self.steps < self.generate.steps:
            raise ConfigError(f"steps: at least the {self.generate.steps} of generate.steps, got {self.steps}")
        if self.generate.seconds is not None:
            raise ConfigError("generate.seconds cuts a sound file; a session ends when its client says so")
        if self.generate.guidance_text != 1:
            raise ConfigError("generate.guidance_text: a session has no text")

    @property
    def most_steps(self) -> int:
        return self.generate.steps if self.steps is None else self.steps
