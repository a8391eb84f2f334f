"""Who wants to see progress of this process: the command line's bars, the dashboard's. Other machines have their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int, int], None]  # stage, shard number, items done, items in the shard

_listeners: list[Listener] = []


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Send all progress of this process to `listener` while the block runs, from any thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(stage: str, shard: int, done: int, total: int) -> None:
    """Called by the engine as items of a shard finish, and by a training as its steps do."""
    for listener in _listeners:
        listener(stage, shard, done, total)
