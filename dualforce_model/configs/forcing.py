"""How training disturbs and weighs: noise levels, dropped conditions, weights of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dualforce_model.config import ConfigError


@dataclass(frozen=True)
class NoiseConfig:
    """How training draws noise levels.

    Three kinds of clip are mixed by weight: every frame its own level; a clean prefix and one level for the rest (what
    generation sees); levels that never fall along time. `struct_power` p draws the struct level as u^p, whose density
    s^(1/p - 1) / p favours low noise for p > 1; `sigma_s_max` bounds it. A model that is sampled from sigma 1 must be
    trained there, so 1 is the default.
    """

    independent: float = 0.4  # share of clips whose frames each have a level of their own
    prefix: float = 0.4  # of clips with a clean beginning and one level for the rest
    rising: float = 0.2  # of clips whose level never falls
    distribution: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0  # of logit_normal
    logit_std: float = 1.0  # of logit_normal
    struct_power: float = 1.5  # above 1: more of the struct stream at low noise
    sigma_s_max: float = 1.0  # highest level of the struct stream; sampling begins there

    def __post_init__(self) -> None:
        weights = (self.independent, self.prefix, self.rising)
        if min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
            raise ConfigError(f"independent, prefix and rising are weights that sum to 1, got {weights}")
        if not 0 < self.sigma_s_max <= 1:
            raise ConfigError(f"sigma_s_max is within (0, 1], got {self.sigma_s_max}")
        if self.struct_power <= 0 or self.logit_std <= 0:
            raise ConfigError("struct_power and logit_std are positive")


@dataclass(frozen=True)
class DropRates:
    """Share of samples for which each condition is replaced by its learned null, each on its own."""

    audio: float = 0.1  # share of windows without sound
    text: float = 0.1  # without text
    reference: float = 0.05  # without the picture

    def __post_init__(self) -> None:
        for name in ("audio", "text", "reference"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"drop rate of {name} is a share, got {getattr(self, name)}")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms. The lip term waits for a scorer whose held-out accuracy is clearly above chance."""

    video: float = 1.0  # weight of the video velocity
    struct: float = 0.5  # of the struct velocity
    flame: float = 0.1  # of the FLAME parameters read from the struct stream
    lip: float = 0.0  # of the lip term; off until its scorer is good
