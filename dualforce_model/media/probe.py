"""What a source file says about itself, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from dualforce_model.errors import BadInput
from dualforce_model.media.container import open_container

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SAMPLED_PACKETS = 400  # enough to see a variable rate; a long file is not read to its end for it
JITTER = 0.2  # a gap that differs from the median by more than this share is not rounding of time stamps


@dataclass(frozen=True)
class AudioInfo:
    """Facts of the sound track. Seconds on the container's clock; the duration is None where the file has none."""

    codec: str
    rate: int
    channels: int
    start_s: float
    duration_s: float | None


@dataclass(frozen=True)
class SourceInfo:
    """Facts of a video file. `width`, `height`: as shown (rotation and pixel shape applied). Times in seconds."""

    container: str
    duration_s: float
    width: int
    height: int
    fps_declared: float
    fps_mean: float
    variable_fps: bool
    rotation: int  # degrees the picture is turned anticlockwise for showing: 0, 90, 180, 270
    video_codec: str
    video_start_s: float
    frames_estimate: int
    audio: AudioInfo | None


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first moving-picture stream (an album cover is none). Raises BadInput no_video_stream."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise BadInput("no_video_stream", f"{path.name!r} has no video track, only {_kinds(container)}")


def pixel_aspect(stream: VideoStream) -> float:
    """Width of a pixel over its height: 1 for nearly everything, 1.07 and the like for DVD-age material."""
    ratio = stream.sample_aspect_ratio
    return float(ratio) if ratio and 0.2 < ratio < 5 else 1.0


def _kinds(container: InputContainer) -> str:
    return ", ".join(sorted({s.type for s in container.streams})) or "nothing"


def probe(path: Path) -> SourceInfo:
    """Read a file's headers and up to 400 packet times. Quick; decodes one frame for the rotation tag.

    Raises BadInput: unreadable, empty_file, not_a_video, truncated, no_video_stream, undecodable.
    """
    from av.error import FFmpegError

    with open_container(path) as container:
        video = video_stream(container, path)
        base = float(video.time_base or 1)
        times: list[int] = []
        rotation: int | None = None
        try:
            for packet in container.demux(video):
                if packet.pts is not None:
                    times.append(packet.pts)
                if rotation is None:
                    for frame in packet.decode():
                        rotation = round(frame.rotation / 90) * 90 % 360
                        break
                if rotation is not None and len(times) >= SAMPLED_PACKETS:
                    break
        except FFmpegError:
            pass  # a bad place in the middle; the reader counts it
        if rotation is None:
            raise BadInput(
                "undecodable", f"{path.name!r}: no frame of its {video.codec_context.name} video can be decoded"
            )
        times.sort()
        gaps = [(b - a) * base for a, b in pairwise(times) if b > a]
        start = (video.start_time if video.start_time is not None else min(times, default=0)) * base
        end = float(container.duration or 0) / 1e6 + float(container.start_time or 0) / 1e6
        duration = float(video.duration * base) if video.duration else max(0.0, end - start)
        declared = float(video.guessed_rate or video.average_rate or 0)
        mean = video.frames / duration if video.frames and duration else len(gaps) / sum(gaps) if gaps else declared
        median = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
        odd = sum(abs(gap - median) > JITTER * median for gap in gaps)
        width, height = round(video.width * pixel_aspect(video)), video.height
        if rotation in (90, 270):
            width, height = height, width
        return SourceInfo(
            container=container.format.name,
            duration_s=round(duration, 6),
            width=width,
            height=height,
            fps_declared=round(declared, 4),
            fps_mean=round(mean, 4),
            variable_fps=odd > max(1, 0.02 * len(gaps)),
            rotation=rotation,
            video_codec=video.codec_context.name,
            video_start_s=round(start, 6),
            frames_estimate=video.frames or round(duration * mean),
            audio=_audio(container),
        )


def _audio(container: InputContainer) -> AudioInfo | None:
    if not container.streams.audio:
        return None
    stream = container.streams.audio[0]
    base = float(stream.time_base or 1)
    return AudioInfo(
        codec=stream.codec_context.name,
        rate=stream.rate,
        channels=stream.channels,
        start_s=round((stream.start_time or 0) * base, 6),
        duration_s=round(stream.duration * base, 6) if stream.duration else None,
    )
