"""What a training run is made of. Every key except those in `OPERATIONAL` decides the weights that come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from dualforce_model import config as strict
from dualforce_model.config import ConfigError


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine, both counted in optimiser steps."""

    lr: float = 2e-3  # learning rate after the warm-up
    final_lr: float = 0.05  # of `lr`, at the last step
    warmup: int = 20  # optimiser steps
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's
    eps: float = 1e-8  # AdamW's
    weight_decay: float = 0.01  # of matrices; norms, biases and tables have none
    clip: float = 1.0  # largest norm of the whole gradient

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip <= 0 or self.warmup < 0:
            raise ConfigError(f"need lr > 0, clip > 0, warmup >= 0, got {self.lr}, {self.clip}, {self.warmup}")


@dataclass(frozen=True)
class TrainConfig:
    """One training stage."""

    preset: str = "tiny"  # of the model: tiny, small, mova_lite, mova_lite_slim, mova_lite_wan
    # how far from the reference the video is taken to lie (model.precondition): small for minutes of training, whose
    # pictures then stay close to the reference; 0.1 and more where there is time to learn motion; null: not used
    reference_spread: float | None = 0.02
    model: dict[str, Any] = field(default_factory=dict)  # keys of ModelConfig on top of the preset, dotted or nested
    steps: int = 300  # optimiser steps in all
    batch: int = 8  # windows per optimiser step, all processes together
    frames: int = 5  # latents per window
    first_share: float = 0.25  # windows that start at the clip's first latent, as generation does
    seed: int = 0  # of the order of windows, the noise, the drops and the fresh weights
    noise: dict[str, Any] = field(default_factory=dict)  # keys of diffusion.NoiseConfig
    drops: dict[str, Any] = field(default_factory=dict)  # keys of diffusion.DropRates
    losses: dict[str, Any] = field(default_factory=dict)  # keys of diffusion.LossWeights
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema: float = 0.99  # decay of the averaged weights, which generation uses
    threads: int = 1  # CPU threads per process; another number rounds otherwise
    precision: Literal["fp32", "bf16"] = "fp32"

    checkpoint_every: int = 100  # optimiser steps
    keep: int = 2  # newest checkpoints that stay
    log_every: int = 1  # optimiser steps
    validate_every: int = 0  # 0: never
    validate_windows: int = 16  # of held-out people, always the same
    workers: int = 0  # loader processes per training process
    on_mismatch: Literal["refuse", "restart", "adopt"] = "refuse"  # checkpoints of other data or config in the way

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "frames", "checkpoint_every", "keep", "log_every", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is a decay in [0, 1), got {self.ema}")


# keys that may change between a run and its resumption: they decide no weight
OPERATIONAL = (
    "checkpoint_every", "keep", "log_every", "validate_every", "validate_windows", "workers", "on_mismatch",
)  # fmt: skip


def lineage(config: TrainConfig) -> dict[str, Any]:
    """The part of the config that decides the weights; a checkpoint continues only under the same."""
    return {key: value for key, value in strict.to_dict(config).items() if key not in OPERATIONAL}
