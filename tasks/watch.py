"""Who wants to see progress of this process: the command line sets a listener, workers on other machines have none."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, int, int], None]  # stage, shard number, items done, items in the shard

_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Send all progress of this process to `listener`, from any thread; None ends it."""
    global _listener
    _listener = listener


def tell(stage: str, shard: int, done: int, total: int) -> None:
    """Called by the engine as items of a shard finish."""
    if _listener is not None:
        _listener(stage, shard, done, total)
