"""Condition dropout: without it guidance would have no unconditional branch to lean on."""

from __future__ import annotations

from dataclasses import replace

import torch

from dualforce_model.configs.forcing import DropRates
from dualforce_model.model.conditioning import Conditions


def drop_conditions(
    given: Conditions, batch: int, rates: DropRates, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Conditions:
    """`given` with its three drop masks [B] drawn."""
    u = torch.rand(3, batch, generator=generator, device=generator.device).to(device)
    return replace(
        given, drop_audio=u[0] < rates.audio, drop_text=u[1] < rates.text, drop_reference=u[2] < rates.reference
    )
