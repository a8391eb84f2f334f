"""What can be wrong with weights. It is the set-up's fault, so a run stops at once instead of failing clip by clip."""

from __future__ import annotations

from dualforce_model.config import ConfigError


class WeightsError(ConfigError):
    """Weights can't be had or don't fit; the message says which, where and what to do."""


class MissingWeightsError(WeightsError):
    """Weights that a chosen backend needs are not on this machine; the message names the command that gets them."""
