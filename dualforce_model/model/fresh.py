"""Fresh weights, one parameter at a time, so that a process which holds a part of the model never holds the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dualforce_model.model.norms import LayerNorm, RMSNorm

if TYPE_CHECKING:
    from dualforce_model.model.duo import Duo

NULL = 0.02  # standard deviation of the learned nulls


def fresh_weights(
    model: Duo,
    generator_of: Callable[[str], torch.Generator | None] = lambda name: None,
    device: torch.device | str | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Name and starting value of every parameter; on `device` or where the parameter is (which may be meta).

    Xavier for linear layers, one for the scales of norms, small noise for the learned nulls; zero for biases, tables and
    all that starts silent. Randomness comes from `generator_of(name)`, or from torch's own generator where that is None.
    """
    silent = {id(layer) for layer in model.silent()}
    for prefix, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{own}" if prefix else own
            value = torch.zeros(parameter.shape, device=device or parameter.device)
            if isinstance(module, nn.Linear) and own == "weight" and id(module) not in silent:
                nn.init.xavier_uniform_(value, generator=generator_of(name))
            elif isinstance(module, (RMSNorm, LayerNorm)) and own == "weight":
                value.fill_(1.0)
            elif own.startswith("null"):
                value.normal_(std=NULL, generator=generator_of(name))
            yield name, value
