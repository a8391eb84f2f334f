"""Shapes, inputs and models that the model's tests share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dualforce_model.model import Conditions, DualForce, ModelConfig, Velocity, preset

SMALL_TEXT, SMALL_AUDIO = 24, 20


@dataclass
class Inputs:
    """Everything that `DualForce.forward` takes."""

    video: Tensor
    struct: Tensor | None
    sigma_video: Tensor
    sigma_struct: Tensor | None
    conditions: Conditions
    start: Tensor
    struct_valid: Tensor | None = None

    def through(self, model: DualForce) -> Velocity:
        return model(
            self.video,
            self.struct,
            self.sigma_video,
            self.sigma_struct,
            self.conditions,
            self.start,
            self.struct_valid,
        )

    def sample(self, b: int) -> Inputs:
        """Sample b alone, its text cut to its own length."""
        text_length = int(self.conditions.text_mask[b].sum())
        given = {
            name: None if (value := getattr(self.conditions, name)) is None else value[b : b + 1]
            for name in self.conditions.__dataclass_fields__
        }
        given["text"], given["text_mask"] = given["text"][:, :text_length], given["text_mask"][:, :text_length]
        one = {
            name: None if (value := getattr(self, name)) is None else value[b : b + 1]
            for name in ("video", "struct", "sigma_video", "sigma_struct", "start", "struct_valid")
        }
        return Inputs(conditions=Conditions(**given), **one)

    def changed(self, **what: Tensor) -> Inputs:
        return replace(self, **what)


def tiny(*assignments: str, **values: object) -> ModelConfig:
    return preset("tiny", *assignments, **{"text_dim": SMALL_TEXT, "audio_dim": SMALL_AUDIO, **values})


def odd() -> ModelConfig:
    """No size divides another: three heads, unequal towers and depths, so nothing fits by luck."""
    return tiny(
        video={"width": 72, "layers": 3, "heads": 3, "ffn": 100, "audio_layers": 2},
        struct={"width": 40, "layers": 2, "heads": 2, "ffn": 56, "audio_layers": 1},
        bridge={"strategy": "full"},
    )


def nudged(config: ModelConfig, scale: float = 0.1) -> DualForce:
    """A model with every weight off its initial value, so that no gate is shut."""
    torch.manual_seed(0)
    model = DualForce(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return model


def inputs(config: ModelConfig, B: int, F: int, H: int, W: int, start: int = 0, seed: int = 1, text: int = 5) -> Inputs:
    """Random inputs with every condition on; sample b has 1 + b % text tokens of text."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    heard = 8 * (F - 1) + config.audio_span
    conditions = Conditions(
        text=normal(B, text, config.text_dim),
        text_mask=torch.arange(text) <= torch.arange(B)[:, None] % text,
        audio=normal(B, heard, config.audio_dim),
        audio_valid=torch.ones(B, heard, dtype=torch.bool),
        reference=normal(B, 16, H, W),
    )
    return Inputs(
        video=normal(B, 16, F, H, W),
        struct=None if config.struct is None else normal(B, F, 4, config.struct_dim),
        sigma_video=torch.rand(B, F, generator=generator),
        sigma_struct=None if config.struct is None else torch.rand(B, F, generator=generator),
        conditions=conditions,
        start=torch.full((B,), start),
    )


# (name, config, B, F, H, W): tiny, and one odd shape
CASES = [
    ("tiny", tiny(), 2, 4, 8, 8),
    ("odd", odd(), 3, 7, 6, 10),
]
