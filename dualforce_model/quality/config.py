"""How clips are measured: what changes a score. Thresholds, which change only verdicts, are in `verdict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dualforce_model import weights
from dualforce_model.faces import identity
from dualforce_model.quality import silero


@dataclass(frozen=True)
class MeasureConfig:
    """Backends of single scores.

    speech    what the speech ratio is heard by: `energy` in the speech band, or Silero's network (needs weights)
    identity  whether it is one person all along: not measured (`none`), or by ArcFace (needs weights)
    """

    speech: Literal["energy", "silero"] = "energy"
    identity: Literal["none", "arcface"] = "none"


def weights_of(config: MeasureConfig) -> list[str]:
    """What identifies the weights that the configured backends need. Raises MissingWeightsError, WeightsError."""
    needed = [silero.WEIGHTS] if config.speech == "silero" else []
    needed += [identity.WEIGHTS] if config.identity == "arcface" else []
    return [weights.digest(name) for name in needed]
