"""Is a stored feature what its clip needs: whole, of the right shape, finite, and made the way its header says?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from dualforce_model import config as configs
from dualforce_model import timeline
from dualforce_model.errors import BadInput
from dualforce_model.features import Feature
from dualforce_model.store import read_provenance, read_tensors

MADE_BY = ("backend", "version", "weights", "config")  # what must be equal throughout a dataset
_DTYPES = {"F16": "float16", "F32": "float32", "I64": "int64", "BOOL": "bool"}


@dataclass(frozen=True)
class Header:
    """What a feature's file says of itself."""

    identity: str
    data_sha256: str
    made_by: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Side in pixels of the pictures behind latents; 0 for a feature without."""
        return self.shapes["latents"][-1] * timeline.SPATIAL if "latents" in self.shapes else 0


def read_header(path: Path, feature: Feature, clip_id: str, frames: int) -> Header:
    """Header of a clip's feature after all checks that need no look at the data, or BadInput.

    Reasons: missing_feature, corrupt_feature, foreign_feature, wrong_shape, not_finite.
    """
    again = f"run the stage {feature.name} again"
    if not path.exists():
        raise BadInput("missing_feature", f"{path} is missing; {again}")
    try:
        provenance = read_provenance(path)
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            stored = {
                name: (_DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()
            }
        owner = provenance["feature"], provenance["clip_id"]
        settings: Any = configs.build(feature.config, provenance["config"])
        header = Header(
            provenance["identity"],
            provenance["data_sha256"],
            {key: provenance.get(key) for key in MADE_BY},
            {name: shape for name, (_, shape) in stored.items()},
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput("corrupt_feature", f"{path} cannot be read ({error!r}); {again}") from error
    if owner != (feature.name, clip_id):
        raise BadInput("foreign_feature", f"{path} holds {owner[0]} of clip {owner[1]}; {again}")
    wanted = {
        name: (feature.arrays[name].dtype, shape)
        for name, shape in feature.shapes(frames, header.size, settings).items()
    }
    if stored != wanted:
        raise BadInput("wrong_shape", f"{path} holds {stored}, but a clip of {frames} frames needs {wanted}; {again}")
    return header


def read_statistics(path: Path, feature: Feature) -> dict[str, np.ndarray]:
    """Count, sum and squares [D] float64 of a feature's file: from its header, or from its data when it states none.

    Raises BadInput corrupt_feature or not_finite.
    """
    try:
        stated = read_provenance(path).get("statistics") or feature.statistics(read_tensors(path))
        moments = {key: np.asarray(stated[key], np.float64) for key in ("count", "sum", "squares")}
    except FloatingPointError as error:
        raise BadInput("not_finite", f"{path}: {error}; run the stage {feature.name} again") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput("corrupt_feature", f"{path} cannot be read ({error!r})") from error
    if not all(np.isfinite(values).all() for values in moments.values()):
        raise BadInput("not_finite", f"{path}: its statistics are not finite; run the stage {feature.name} again")
    return moments
