"""Mean and spread of every feature dimension, summed up clip by clip from what each feature's file states of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dualforce_model.features import FEATURES

STEADY = 1e-6  # a dimension that varies less than this is constant; dividing by its deviation would only amplify noise

Moments = Mapping[str, np.ndarray]  # "count", "sum" and "squares" [D] float64 of one feature of one clip


class Totals:
    """Running sums over clips. Added in the same order, they give the same bits."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, np.ndarray]] = {}

    def add(self, clip: Mapping[str, Moments]) -> None:
        """Add the moments of one clip, by feature."""
        for name, moments in clip.items():
            stated_as = FEATURES[name].summed.stated_as
            if stated_as is not None:
                total = self._sums.setdefault(
                    stated_as, {key: np.zeros_like(values) for key, values in moments.items()}
                )
                for key, values in moments.items():
                    total[key] += values

    def stats(self) -> dict[str, Any]:
        """stats.json: `count`, `mean` and `std` per dimension of `latents`, `struct`, `flame` and `audio`.

        A dimension that was never measured has mean 0, one that does not vary deviation 1, so both standardise to 0.
        """
        stats = {}
        for name, total in self._sums.items():
            count = np.maximum(total["count"], 1)
            mean = total["sum"] / count
            deviation = np.sqrt(np.maximum(total["squares"] / count - mean**2, 0))
            stats[name] = {
                "count": total["count"].astype(int).tolist(),
                "mean": mean.tolist(),
                "std": np.where(deviation < STEADY, 1.0, deviation).tolist(),
            }
        return stats
