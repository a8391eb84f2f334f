"""Frames of a source on the constant 25 fps grid, at their true presentation times; one frame in memory at a time.

The grid starts at the first shown frame: grid frame k stands for the instant origin + k/25 on the container's clock.
Each source frame is moved to the nearest grid instant and stays on show until the next one (as `ffmpeg -r 25` does), so
no frame is off by more than 20 ms however uneven the source's own times are; frame index / rate is never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.media.container import open_container
from dualforce_model.media.probe import pixel_aspect, video_stream
from dualforce_model.timeline import FPS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

LOST_SHARE, LOST_S = 0.9, 0.5  # a file that shows less than 90 % of its declared length, and 0.5 s less, is cut off
JUMP_S = 3600.0  # nobody shows one frame for an hour: the time stamps are wrong
LAST_S = Fraction(1)  # at most this long is the last frame on show, whatever its packet says
CORRUPT_SHARE = 0.5  # more bad packets than this share of all, and what is left is not a video


class Picture:
    """One source frame, upright, with square pixels; converted to RGB only when asked, and once."""

    def __init__(self, frame: VideoFrame, reader: GridReader):
        self._frame, self._reader = frame, reader
        self._rgb: np.ndarray | None = None

    def rgb(self) -> np.ndarray:
        """uint8 [H,W,3] at source size."""
        if self._rgb is None:
            self._rgb = self._reader._convert(self._frame, 1.0)
        return self._rgb

    def small(self, longest: int) -> np.ndarray:
        """uint8 [h,w,3] with its longer side at most `longest`; never enlarged."""
        scale = longest / max(self._reader.width, self._reader.height)
        return self.rgb() if scale >= 1 else self._reader._convert(self._frame, scale)


@dataclass(frozen=True)
class GridFrame:
    """Grid frame `index`; `fresh` is False when it shows the same source frame as the one before."""

    index: int
    picture: Picture
    fresh: bool


class GridReader:
    """Iterate over GridFrames of `path` (once). Counts are valid afterwards.

    Attributes: origin_s (first frame, container clock), width, height (as shown), decoded (source frames),
    errors [grid index of each bad packet or damaged frame], gaps [(grid index, seconds)] where the source showed one
    frame for longer than `GAP_S`. Raises BadInput: as `probe`, and truncated, corrupt, undecodable at the end.
    """

    GAP_S = 0.25

    def __init__(self, path: Path):
        self.path = path
        self.origin_s = 0.0
        self.width = self.height = 0
        self.decoded = self.packets = 0
        self.errors: list[int] = []
        self.gaps: list[tuple[int, float]] = []
        self._index = self._rotation = 0
        self._reformatters: dict[float, Any] = {}

    def __iter__(self) -> Iterator[GridFrame]:
        with open_container(self.path) as container:
            yield from self._grid(container)

    def _grid(self, container: InputContainer) -> Iterator[GridFrame]:
        stream = video_stream(container, self.path)
        stream.codec_context.thread_count = 1  # workers are processes, one per core; threads would only buffer frames
        nominal = 1 / (stream.guessed_rate or stream.average_rate or Fraction(FPS))
        origin: Fraction | None = None
        shown: Picture | None = None
        last = length = Fraction(0)
        for frame in self._frames(container, stream):
            time = last + length if frame.pts is None else frame.pts * _base(frame.time_base)
            if origin is None:
                origin = time
                self._first(frame, stream)
            elif time - origin <= last:
                continue  # time stamps that run backwards: the frame was never on show
            gap = float(time - origin - last)
            if gap > JUMP_S:
                raise BadInput("broken_times", f"{self.path.name!r}: its time stamps jump by {gap:.0f} s; remux it")
            if gap > self.GAP_S:
                self.gaps.append((self._index, gap))
            if shown is not None:
                yield from self._show(shown, _slot(time - origin))
            shown, last = Picture(frame, self), time - origin
            length = frame.duration * _base(frame.time_base) if frame.duration else nominal
        if origin is None or shown is None:
            raise BadInput(
                "undecodable", f"{self.path.name!r}: none of its {self.packets} video packets can be decoded"
            )
        self.origin_s = float(origin)
        yield from self._show(shown, max(1, _slot(last + min(length, LAST_S))))
        self._complete(container, stream, float(last + length))

    def _show(self, picture: Picture, until: int) -> Iterator[GridFrame]:
        fresh = True
        while self._index < until:
            yield GridFrame(self._index, picture, fresh)
            self._index, fresh = self._index + 1, False

    def _frames(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """Decode packet by packet: a bad packet is counted and the decoder goes on with the next."""
        from av.error import FFmpegError

        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:
                self.errors.append(self._index)
                if len(self.errors) > self.packets + 1:
                    return  # the container itself is broken from here on
                packets = container.demux(stream)
                continue
            if packet.size == 0 and packet.dts is not None:
                continue  # "the same picture again" (Theora); a decoder takes an empty packet for the end
            self.packets += 1
            try:
                frames = packet.decode()
            except FFmpegError:
                self.errors.append(self._index)
                continue
            for frame in frames:
                self.decoded += 1
                if frame.is_corrupt:
                    self.errors.append(self._index)
                yield frame

    def _first(self, frame: VideoFrame, stream: VideoStream) -> None:
        self._rotation = round(frame.rotation / 90) * 90 % 360
        self._stored = (round(frame.width * pixel_aspect(stream)), frame.height)
        self.width, self.height = self._stored if self._rotation in (0, 180) else self._stored[::-1]
        self.origin_s = float(frame.pts * _base(frame.time_base)) if frame.pts is not None else 0.0

    def _convert(self, frame: VideoFrame, scale: float) -> np.ndarray:
        from av.video.reformatter import VideoReformatter

        # one reformatter per target size keeps its scaling tables; a new one per frame costs more than the conversion
        reformatter = self._reformatters.setdefault(scale, VideoReformatter())
        width, height = (max(1, round(side * scale)) for side in self._stored)
        method = "AREA" if scale < 1 else "FAST_BILINEAR"
        rgb = reformatter.reformat(frame, width, height, "rgb24", interpolation=method).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, self._rotation // 90)) if self._rotation else rgb

    def _complete(self, container: InputContainer, stream: VideoStream, shown_s: float) -> None:
        declared = float(stream.duration * _base(stream.time_base)) if stream.duration else shown_s
        if not stream.duration and container.format.name == "flv":  # it tells its length for all streams together
            declared = float(container.duration or 0) / 1e6
        bad, name = len(self.errors), self.path.name
        if shown_s < LOST_SHARE * declared and shown_s < declared - LOST_S and bad <= 1:
            raise BadInput(
                "truncated",
                f"{name!r} declares {declared:.2f} s of video and holds {shown_s:.2f} s; copy or download it again",
            )
        if bad > CORRUPT_SHARE * self.packets or shown_s < LOST_SHARE * declared - LOST_S:
            raise BadInput(
                "corrupt",
                f"{name!r}: {bad} of {self.packets} video packets are damaged, {shown_s:.2f} of {declared:.2f} s are "
                "left; copy or download it again",
            )


def _base(time_base: Fraction | None) -> Fraction:
    return time_base or Fraction(1, 90_000)


def _slot(time: Fraction) -> int:
    """The grid index nearest to `time` seconds after the origin (halves go up, as in ffmpeg)."""
    return int(time * FPS + Fraction(1, 2))
