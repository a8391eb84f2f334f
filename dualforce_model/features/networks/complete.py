"""Whether a file held every weight of a network: libraries fill what is missing with random numbers and go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dualforce_model.weights import WeightsError


def require_complete(report: Mapping[str, Any], folder: Path, what: str, spare: Collection[str] = ()) -> None:
    """Raise WeightsError when `report`, as `from_pretrained(output_loading_info=True)` gives it, lacks weights.

    spare: names that may be missing.
    """
    missing = sorted(set(report["missing_keys"]) - set(spare))
    if missing or report["mismatched_keys"]:
        raise WeightsError(
            f"{folder} does not fit {what}: missing {missing[:3]} ({len(missing)} in all), "
            f"other shapes {list(report['mismatched_keys'])[:3]}; fetch it again with `dualforce weights fetch`"
        )
