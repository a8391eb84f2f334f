"""What can be wrong with weights. It is the set-up's fault, so a run stops at once instead of failing clip by clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dualforce_model.config import ConfigError


class WeightsError(ConfigError):
    """Weights can't be had or don't fit; the message says which, where and what to do."""


class MissingWeightsError(WeightsError):
    """Weights that a chosen backend needs are not on this machine; the message names the command that gets them."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error of the disk becomes a WeightsError that names the file."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{error.filename or path} can't be written ({error.strerror or error}); make room or mend the permissions"
            " there, or name another folder in DUALFORCE_WEIGHTS, then fetch again"
        ) from error
