"""Guidance: which rows a batch needs beside the conditional one, and how their velocities become one.

S speakers, R rows per speaker (1 + guided conditions); a batch is [R·S], row by row. Source: classifier-free guidance
(Ho & Salimans 2022), with one scale per condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dualforce_model.generate.config import GenerateConfig


@dataclass(frozen=True)
class Branches:
    """Rows in which one frame is denoised: with all conditions, then without each that is guided."""

    dropped: tuple[str, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, config: GenerateConfig, text: bool = False) -> Branches:
        """Only what is guided gets a row: a scale of 1 costs nothing. `text`: whether there is a text to guide by."""
        wanted = {"audio": config.guidance_audio, "reference": config.guidance_reference}
        if text:
            wanted["text"] = config.guidance_text
        guided = {name: scale for name, scale in wanted.items() if scale != 1.0}
        return cls(tuple(guided), tuple(guided.values()))

    @property
    def rows(self) -> int:
        return 1 + len(self.dropped)

    def drop(self, condition: str, speakers: int, device: torch.device) -> Tensor:
        """[R·S] True in the rows that go without `condition`."""
        rows = torch.tensor([False, *(name == condition for name in self.dropped)], device=device)
        return rows.repeat_interleave(speakers)

    def spread(self, x: Tensor) -> Tensor:
        """[S,...] to [R·S,...]."""
        return x if self.rows == 1 else x.repeat(self.rows, *[1] * (x.ndim - 1))

    def combine(self, velocity: Tensor) -> Tensor:
        """Velocity [R·S,...] to the guided one [S,...]: v + sum over c of (scale_c - 1)(v - v without c)."""
        whole, *without = velocity.chunk(self.rows)
        guided = whole
        for scale, other in zip(self.scales, without, strict=True):
            guided = guided + (scale - 1) * (whole - other)
        return guided
