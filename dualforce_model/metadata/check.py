"""Is a stored feature what its clip needs: whole, of the right shape, finite, and made the way its header says?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dualforce_model import config as configs
from dualforce_model import timeline
from dualforce_model.errors import BadInput
from dualforce_model.features import Feature
from dualforce_model.metadata.statistics import Moments
from dualforce_model.store import read_tensors

MADE_BY = ("backend", "version", "weights", "config")  # what must be equal throughout a dataset
_DTYPES = {"F16": "float16", "F32": "float32", "I64": "int64", "BOOL": "bool"}


@dataclass(frozen=True)
class Header:
    """What a feature's file says of itself."""

    data_sha256: str
    made_by: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    moments: Moments


def read_header(path: Path, feature: Feature, clip_id: str, frames: int) -> Header:
    """Header of a clip's feature after all checks, or BadInput. Data is read only when the header has no statistics.

    Reasons: missing_feature, corrupt_feature, foreign_feature, wrong_shape, not_finite.
    """
    again = f"run the stage {feature.name} again"
    with _readable(path, again):
        provenance, stored = _stored(path)
        owner = provenance["feature"], provenance["clip_id"]
        if owner != (feature.name, clip_id):
            raise BadInput("foreign_feature", f"{path} holds {owner[0]} of clip {owner[1]}; {again}")
        shapes = {name: shape for name, (_, shape) in stored.items()}
        size = picture_size(shapes)
        wanted = feature.shapes(frames, size, configs.build(feature.config, provenance["config"]))
        if stored != {name: (array.dtype, wanted[name]) for name, array in feature.arrays.items()}:
            raise BadInput(
                "wrong_shape", f"{path} holds {stored}, but a clip of {frames} frames needs {wanted}; {again}"
            )
        moments = _moments(path, feature, provenance.get("statistics"))
        return Header(provenance["data_sha256"], {key: provenance.get(key) for key in MADE_BY}, shapes, moments)


def read_text(path: Path) -> Header:
    """Header of a caption's embedding, or BadInput: missing_feature, corrupt_feature, foreign_feature, wrong_shape.

    It belongs to no clip and is not standardised, so it has no moments.
    """
    again = "run the stage text again"
    with _readable(path, again):
        provenance, stored = _stored(path)
        if provenance["feature"] != "text":
            raise BadInput("foreign_feature", f"{path} holds {provenance['feature']}; {again}")
        dtype, shape = stored["text"]
        if dtype != "float16" or len(shape) != 2 or not shape[0]:
            raise BadInput("wrong_shape", f"{path} holds {stored}, but a caption is [S,D] float16; {again}")
        made_by = {key: provenance.get(key) for key in MADE_BY}
        return Header(provenance["data_sha256"], made_by, {"text": shape}, {})


@contextmanager
def _readable(path: Path, again: str) -> Iterator[None]:
    """Whatever goes wrong in the block with reading `path` is BadInput missing_feature or corrupt_feature."""
    if not path.exists():
        raise BadInput("missing_feature", f"{path} is missing; {again}")
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput("corrupt_feature", f"{path} cannot be read ({error!r}); {again}") from error


def _stored(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    """Provenance of an artifact, and type and shape of each of its arrays."""
    with safe_open(path, framework="numpy") as file:
        provenance = json.loads(file.metadata()["dualforce"])
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        return provenance, {
            name: (_DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()
        }


def picture_size(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Side in pixels of the pictures behind latents; 0 for a feature without."""
    return shapes["latents"][-1] * timeline.SPATIAL if "latents" in shapes else 0


def _moments(path: Path, feature: Feature, stated: Mapping[str, Any] | None) -> Moments:
    """Moments that the header states, else those of the data. Raises BadInput not_finite."""
    try:
        stated = stated or feature.statistics(read_tensors(path))
    except FloatingPointError as error:
        raise BadInput("not_finite", f"{path}: {error}; run the stage {feature.name} again") from error
    moments = {key: np.asarray(stated[key], np.float64) for key in ("count", "sum", "squares")}
    if not all(np.isfinite(values).all() for values in moments.values()):
        raise BadInput("not_finite", f"{path}: its statistics are not finite; run the stage {feature.name} again")
    return moments
