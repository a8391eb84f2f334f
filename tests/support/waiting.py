"""Waiting for a condition, with a deadline; nothing in the tests sleeps and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], what: str = "what was waited for", seconds: float = 60, every: float = 0.02) -> T:
    """What `look` says once it says something; fails when that does not happen in time."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return found
