"""Frames of a piece of a source on its own 25 fps grid, read where they lie: nothing before them is decoded in vain."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from dualforce_model.errors import BadInput
from dualforce_model.media.cut import Cut
from dualforce_model.media.video import JUMP_S, LOST_S, GridFrame, GridReader, Picture, _base, _slot
from dualforce_model.timeline import FPS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

PREROLL_S = (
    0.5,
    15.0,
)  # how far before the piece a key frame is looked for, before the file is read from its beginning


class PieceReader(GridReader):
    """A GridReader of `cut`: grid frame k stands for the instant cut.start_s + k/25, and none is at or after cut.end_s.

    Raises BadInput as GridReader does, `truncated` when the file ends more than half a second before the piece.
    """

    def __init__(self, path: Path, cut: Cut):
        super().__init__(path)
        self.cut = cut

    def again(self) -> PieceReader:
        """A new reader of the same frames."""
        return PieceReader(self.path, self.cut)

    def _grid(self, container: InputContainer) -> Iterator[GridFrame]:
        stream = self._stream(container)
        start = Fraction(self.cut.start_s).limit_denominator(1_000_000)
        count = max(1, _slot(Fraction(self.cut.end_s).limit_denominator(1_000_000) - start))
        nominal = 1 / (stream.guessed_rate or stream.average_rate or Fraction(FPS))
        shown: Picture | None = None
        last = time = -start
        for frame in self._from(container, stream, start):
            time = last + nominal if frame.pts is None else frame.pts * _base(frame.time_base) - start
            if shown is None:
                self._first(frame, stream)
                self.origin_s = self.cut.start_s
            elif time <= last:
                continue
            elif float(time - last) > JUMP_S:
                raise BadInput(
                    "broken_times", f"{self.path.name!r}: its time stamps jump by {float(time - last):.0f} s"
                )
            if _slot(time) <= 0:  # before the piece, or its first frame
                self.decoded, self.errors[:] = 1, []
            elif shown is not None:
                if float(time - last) > self.GAP_S:
                    self.gaps.append((self._index, float(time - last)))
                yield from self._show(shown, min(_slot(time), count))
            if _slot(time) >= count:
                return
            shown, last = Picture(frame, self), time
        if shown is None:
            raise BadInput(
                "undecodable", f"{self.path.name!r}: nothing of it can be decoded from {self.cut.start_s:.2f} s on"
            )
        missing = count / FPS - float(time + nominal)
        if missing > LOST_S:
            raise BadInput(
                "truncated", f"{self.path.name!r} ends {missing:.2f} s before the piece that a list wants of it"
            )
        yield from self._show(shown, count)

    def _from(self, container: InputContainer, stream: VideoStream, start: Fraction) -> Iterator[VideoFrame]:
        """Frames from a key frame at or before `start` on."""
        for back in PREROLL_S:
            if start <= back:
                break
            container.seek(int((start - Fraction(back)) / _base(stream.time_base)), stream=stream, backward=True)
            frames = self._frames(container, stream)
            frame = next(frames, None)
            # an index may be wrong, and some containers have none
            if frame is not None and frame.pts is not None and frame.pts * _base(frame.time_base) <= start:
                yield frame
                yield from frames
                return
        container.seek(0)
        yield from self._frames(container, stream)
