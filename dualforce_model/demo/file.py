"""Writes a demo movie exactly as asked: presentation times, rotation tag, sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

CLOCK = 90_000  # ticks per second of the video stream


def write_movie(
    path: Path,
    frames: Iterable[np.ndarray],
    times: Sequence[Fraction],
    fps: Fraction,
    sound: np.ndarray | None,
    sound_rate: int,
    rotation: int = 0,
) -> None:
    """H.264 + AAC in mp4. frames: RGB uint8 [H,W,3] shown at `times` (s). sound: float32 mono [n] from 0 s, or None.

    rotation: the picture is stored turned, and a display matrix tells the player to turn it by so many degrees
    counter-clockwise.
    """
    import av

    turns = rotation // 90
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "use_editlist": "1"}) as movie:
        video = movie.add_stream("libx264", rate=fps, options={"preset": "superfast", "crf": "18", "threads": "1"})
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = Fraction(1, CLOCK)
        if rotation:
            video.set_display_rotation(rotation)
        if sound is not None:
            track = movie.add_stream("aac", rate=sound_rate, layout="mono", options={"flags": "+bitexact"})
            track.bit_rate = 96_000
        for picture, time in zip(frames, times, strict=True):
            stored = np.ascontiguousarray(np.rot90(picture, -turns))
            if not video.codec_context.is_open:
                video.width, video.height = stored.shape[1], stored.shape[0]
            frame = av.VideoFrame.from_ndarray(stored, "rgb24")
            frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
            movie.mux(video.encode(frame))
        movie.mux(video.encode(None))
        if sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = sound_rate, 0, Fraction(1, sound_rate)
            movie.mux(track.encode(block))
            movie.mux(track.encode(None))
