"""Condition dropout: without it guidance would have no unconditional branch to lean on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from dualforce_model.config import ConfigError
from dualforce_model.model.conditioning import Conditions


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


def drop_conditions(
    given: Conditions, batch: int, rates: DropRates, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Conditions:
    """`given` with its three drop masks [B] drawn."""
    u = torch.rand(3, batch, generator=generator, device=generator.device).to(device)
    return replace(
        given, drop_audio=u[0] < rates.audio, drop_text=u[1] < rates.text, drop_reference=u[2] < rates.reference
    )
