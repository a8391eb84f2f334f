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

    independent: float = 0.4
    prefix: float = 0.4
    rising: float = 0.2
    distribution: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    struct_power: float = 1.5
    sigma_s_max: float = 1.0

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

    audio: float = 0.1
    text: float = 0.1
    reference: float = 0.05

    def __post_init__(self) -> None:
        for name in ("audio", "text", "reference"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"drop rate of {name} is a share, got {getattr(self, name)}")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms. The lip term waits for a scorer whose held-out accuracy is clearly above chance."""

    video: float = 1.0
    struct: float = 0.5
    flame: float = 0.1
    lip: float = 0.0
