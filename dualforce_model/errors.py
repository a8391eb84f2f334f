"""The two ways an item leaves the workflow without breaking it. Any other exception is our fault and worth a retry."""

from __future__ import annotations


class Verdict(Exception):
    """What an item ended with. `reason` is a short stable name (`no_face`), the message is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[Verdict], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # survives the way back from a worker process


class Rejected(Verdict):
    """The item is sound but not wanted: nothing there to make a clip of, for example."""


class BadInput(Verdict):
    """The item can't be used (corrupt, not a video). The same bytes would fail again, so it is not retried."""
