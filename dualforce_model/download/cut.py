"""From what a list says about a clip to where that is in the file that came: instants on its clock, a square in its pixels."""

from __future__ import annotations

from dualforce_model.download.listed import Box, ListedClip, Span
from dualforce_model.errors import BadInput
from dualforce_model.media import SourceInfo
from dualforce_model.media.cut import Cut

SHORT_S = 1.0  # lists round to whole seconds: a clip may end that much after its video


def cut_of(clip: ListedClip, info: SourceInfo, framing: str = "list") -> Cut:
    """The cut of `clip` in the video that `info` describes.

    Raises BadInput: listed_time_missing, listed_crop_outside, when the video is not the one that the list means.
    """
    start, end = _instants(clip.name, clip.span, info)
    return Cut(start, end, square_of(clip.name, clip.box, info) if clip.box else None, framing == "own")


def _instants(name: str, span: Span | None, info: SourceInfo) -> tuple[float, float]:
    """Seconds on the container's clock, moved by at most SHORT_S into the video."""
    first, last = info.video_start_s, info.video_start_s + info.duration_s
    if span is None:
        return first, last
    # a player's clock begins with whatever comes first; frame numbers begin with the first picture
    zero = first if span.frames or info.audio is None else min(first, info.audio.start_s)
    start, end = zero + span.start, zero + span.end
    if end > last + SHORT_S or start >= last or end <= first:
        raise BadInput(
            "listed_time_missing",
            f"{name}: the list wants {span.start:.2f} to {span.end:.2f} s, the video that came has {info.duration_s:.2f} s;"
            " it is another version of it",
        )
    return round(max(start, first), 6), round(min(end, last), 6)


def square_of(name: str, box: Box, info: SourceInfo) -> tuple[int, int, int]:
    """Left, top, side in pixels of the video that came, whatever resolution the list was made for.

    A box that is not square gives the square of its shorter side around its centre, as CelebV-HQ's own tool does.
    """
    if box.unit == "share":
        across, down = float(info.width), float(info.height)
    else:
        across = down = info.height / box.height
    left, top, right, bottom = (v * s for v, s in zip(box.sides, (across, down, across, down), strict=True))
    side = min(right - left, bottom - top)
    x, y = (left + right) / 2, (top + bottom) / 2
    if side < 2 or not (0 <= x < info.width and 0 <= y < info.height):
        raise BadInput(
            "listed_crop_outside",
            f"{name}: the list's crop {left:.0f},{top:.0f} to {right:.0f},{bottom:.0f} lies outside of the"
            f" {info.width}x{info.height} video that came; it is another version of it",
        )
    return round(x - side / 2), round(y - side / 2), round(side)
