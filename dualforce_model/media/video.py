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
    from av.video.plane import VideoPlane
    from av.video.stream import VideoStream

LOST_SHARE, LOST_S = 0.9, 0.5  # a file that shows less than 90 % of its declared length, and 0.5 s less, is cut off
JUMP_S = 3600.0  # nobody shows one frame for an hour: the time stamps are wrong
LAST_S = Fraction(1)  # at most this long is the last frame on show, whatever its packet says
CORRUPT_SHARE = 0.5  # more bad packets than this share of all, and what is left is not a video


class Picture:
    """One source frame, upright, with square pixels; converted to RGB only where asked.

    Most of a large frame is never looked at: converting 1080x1920 pixels takes 5 ms, a face's part of it 0.7 ms.
    """

    def __init__(self, frame: VideoFrame, reader: GridReader):
        self._frame, self._reader = frame, reader

    def rgb(self) -> np.ndarray:
        """uint8 [H,W,3] at source size."""
        return self._reader.convert(self._frame, self._reader.stored, "whole")

    def small(self, longest: int) -> np.ndarray:
        """uint8 [h,w,3] with its longer side at most `longest`, averaged; never enlarged."""
        scale = longest / max(self._reader.stored)
        width, height = self._reader.stored
        size = (width, height) if scale >= 1 else (max(1, round(width * scale)), max(1, round(height * scale)))
        return self._reader.convert(self._frame, size, "whole" if scale >= 1 else f"small {longest}")

    def thin(self, longest: int) -> np.ndarray:
        """uint8 [h,w,3] of every n-th pixel and line, at most `longest` on the longer side: a rough view."""
        step = 2 * -(-max(self._reader.stored) // (2 * longest))
        planes = _planes(self._frame) if self._reader.plain else None
        if planes is None:
            return self.small(longest)
        half = step // 2  # chroma has half the lines and pixels
        parts = [planes[0][::step, ::step], *(plane[::half, ::half] for plane in planes[1:])]
        height, width = parts[0].shape
        return self._reader.convert(_frame_of(parts, "yuv444p", self._frame), (width, height), "thin")

    def square(self, left: int, top: int, side: int) -> tuple[np.ndarray, int, int]:
        """uint8 [h,w,3] of what lies in that square of the picture or a little more, and its own left and top."""
        width, height = self._reader.width, self._reader.height
        x0, y0 = max(0, left) // 2 * 2, max(0, top) // 2 * 2
        x1, y1 = min(width, left + side + 1) // 2 * 2, min(height, top + side + 1) // 2 * 2
        planes = _planes(self._frame) if self._reader.plain and x1 > x0 and y1 > y0 else None
        if planes is None or (x1 < left + side and x1 < width // 2 * 2) or width % 2 or height % 2:
            return self.rgb(), 0, 0
        parts = [planes[0][y0:y1, x0:x1], *(p[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2] for p in planes[1:])]
        part = _frame_of(parts, "yuv420p", self._frame)
        return self._reader.convert(part, (x1 - x0, y1 - y0), "square"), x0, y0


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
        self.draft = False  # leave block edges as they are: a fifth less work, good enough to look for faces and cuts
        self.origin_s = 0.0
        self.width = self.height = 0
        self.stored = (0, 0)  # width and height before rotation, with square pixels
        self.plain = True  # whether stored pixels are shown pixels
        self.decoded = self.packets = 0
        self.errors: list[int] = []
        self.gaps: list[tuple[int, float]] = []
        self._index = self._rotation = 0
        self._reformatters: dict[str, Any] = {}

    def again(self) -> GridReader:
        """A new reader of the same frames."""
        return GridReader(self.path)

    def __iter__(self) -> Iterator[GridFrame]:
        with open_container(self.path) as container:
            yield from self._grid(container)

    def _grid(self, container: InputContainer) -> Iterator[GridFrame]:
        stream = self._stream(container)
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

    def _stream(self, container: InputContainer) -> VideoStream:
        stream = video_stream(container, self.path)
        stream.codec_context.thread_count = 1  # workers are processes, one per core; threads would only buffer frames
        if self.draft:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        return stream

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
        self.stored = (round(frame.width * pixel_aspect(stream)), frame.height)
        self.plain = self._rotation == 0 and self.stored == (frame.width, frame.height)
        self.width, self.height = self.stored if self._rotation in (0, 180) else self.stored[::-1]
        self.origin_s = float(frame.pts * _base(frame.time_base)) if frame.pts is not None else 0.0

    def convert(self, frame: VideoFrame, size: tuple[int, int], use: str) -> np.ndarray:
        """RGB of a stored frame at (width, height), upright. One scaler per use: its tables cost more than a frame."""
        from av.video.reformatter import VideoReformatter

        reformatter = self._reformatters.setdefault(use, VideoReformatter())
        method = "FAST_BILINEAR" if size == (frame.width, frame.height) else "AREA"
        rgb = reformatter.reformat(frame, *size, "rgb24", interpolation=method).to_ndarray()
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


def _planes(frame: VideoFrame) -> list[np.ndarray] | None:
    """The luma and the two chroma planes, not copied, of the pixel layout that nearly all videos have; else None."""
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        return None
    return [_pixels(plane) for plane in frame.planes]


def _pixels(plane: VideoPlane) -> np.ndarray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _frame_of(planes: list[np.ndarray], layout: str, like: VideoFrame) -> VideoFrame:
    """A new frame of these planes, with the colours of `like`."""
    import av

    full = like.format.name == "yuvj420p"
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], layout.replace("yuv", "yuvj") if full else layout)
    for plane, data in zip(frame.planes, planes, strict=True):
        _pixels(plane)[:] = data
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame


def _base(time_base: Fraction | None) -> Fraction:
    return time_base or Fraction(1, 90_000)


def _slot(time: Fraction) -> int:
    """The grid index nearest to `time` seconds after the origin (halves go up, as in ffmpeg)."""
    return int(time * FPS + Fraction(1, 2))
