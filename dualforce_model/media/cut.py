"""A piece of a source that is read where it lies, so that nothing is encoded before the clip itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """Instants [start_s, end_s) on the container's clock and, where known, the square that shows the person.

    `square`: left, top, side in pixels of the upright picture. Faces are looked for inside it alone; the clip shows
    exactly it, or with `own_framing` the square around the face that any other source would get.
    """

    start_s: float
    end_s: float
    square: tuple[int, int, int] | None = None
    own_framing: bool = False
