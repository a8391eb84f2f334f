"""What a feature is to the rest of the house: its extractor, its arrays and their shapes, what is summed up of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dualforce_model import config as configs
from dualforce_model import timeline, weights

if TYPE_CHECKING:
    from dualforce_model.media import Clip


@dataclass(frozen=True)
class Array:
    """Type and shape of a stored array.

    Sizes are numbers or letters: T raw frames, 2T, F latents, h and w latent cells, others from the feature's config.
    """

    dtype: str
    sizes: tuple[int | str, ...]


@dataclass(frozen=True)
class Summed:
    """The array that is summed up: the axis of its dimensions, its mask, its name in the dataset's statistics."""

    array: str
    axis: int
    mask: str | None = None
    stated_as: str | None = None  # None: it serves only to know that all is finite


@dataclass(frozen=True)
class Published:
    """A backend with published weights: its own version, the name of the set of weights, and the GPU memory in GiB of
    a process that runs it, with the weights of others that it has run.
    """

    version: str
    weights: str
    gib: float = 5.0


@dataclass(frozen=True)
class Feature:
    """One of the five features. All fields of its `settings` decide its bytes, so all belong in its identity."""

    name: str
    config: type
    version: str
    extract: Callable[[Clip, Any], dict[str, np.ndarray]]
    arrays: Mapping[str, Array]
    summed: Summed
    letters: Callable[[Any], Mapping[str, int]] = lambda _: {}
    published: Mapping[str, Published] = field(default_factory=dict)  # backends that need weights

    def version_of(self, config: Any) -> str:
        """Version of the configured backend."""
        backend = self.published.get(config.backend)
        return backend.version if backend else self.version

    def weights_of(self, config: Any) -> str | None:
        """What identifies the configured backend's weights; None when it has none.

        Raises MissingWeightsError, which names the command that gets them, and WeightsError for damaged ones.
        """
        backend = self.published.get(config.backend)
        return weights.digest(backend.weights) if backend else None

    def settings(self, config: Any) -> dict[str, Any]:
        """The configuration as plain data, without the sections of backends with weights when none of them is used."""
        plain = configs.to_dict(config)
        if config.backend in self.published:
            return plain
        return {name: value for name, value in plain.items() if not is_dataclass(getattr(config, name))}

    def shapes(self, frames: int, size: int, config: Any) -> dict[str, tuple[int, ...]]:
        """Shape of each array for a clip of `frames` raw frames of `size` x `size` pixels."""
        cells = size // timeline.SPATIAL
        known: dict[str, int] = {
            "T": frames,
            "2T": timeline.audio_count(frames),
            "F": timeline.latent_count(frames),
            "h": cells,
            "w": cells,
            **self.letters(config),
        }
        return {
            name: tuple(known[size] if isinstance(size, str) else size for size in array.sizes)
            for name, array in self.arrays.items()
        }

    def statistics(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Count, sum and sum of squares per dimension (float64) of the values that its mask calls valid.

        They travel in the header of the feature's file, so that a dataset's statistics need no second look at its data.
        Raises FloatingPointError when a value, valid or not, is not finite.
        """
        values = np.moveaxis(arrays[self.summed.array], self.summed.axis, 0)
        if not np.isfinite(values).all():
            raise FloatingPointError(f"{self.name}: {self.summed.array!r} holds values that are not finite")
        mask = None
        if self.summed.mask is not None:
            mask = arrays[self.summed.mask]
            mask = (
                np.moveaxis(mask, self.summed.axis, 0)
                if mask.ndim == values.ndim
                else np.broadcast_to(mask, values.shape)
            )
        count, total, squares = [], [], []
        for d in range(len(values)):  # one dimension at a time: the float64 copy stays small
            kept = (values[d] if mask is None else values[d][mask[d]]).astype(np.float64)
            count.append(kept.size)
            total.append(float(kept.sum()))
            squares.append(float((kept * kept).sum()))
        return {"count": count, "sum": total, "squares": squares}
