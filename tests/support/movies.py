"""Making video files whose truth is known: flashes and beeps at the same instants, odd containers, damaged bytes."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from dualforce_model.demo.file import write_movie
from dualforce_model.media import GridReader, read_audio

EVENTS = (0.6, 1.4, 2.3, 3.1, 4.2)  # seconds; each flash and beep begins with the frame on show then
LENGTH_S = 5


def ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y"]
    subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True)


def even_times(fps: Fraction, start: Fraction = Fraction(0), seconds: int = LENGTH_S) -> list[Fraction]:
    return [start + Fraction(k) / fps for k in range(int((seconds - start) * fps))]


def uneven_times(seconds: int = LENGTH_S) -> list[Fraction]:
    """A phone's: 33 to 100 ms between frames, on average far from the declared rate."""
    rng, times = np.random.default_rng(1), [Fraction(0)]
    while times[-1] < seconds:
        times.append(times[-1] + Fraction(int(rng.choice([33, 33, 67, 50, 100])), 1000))
    return times[:-1]


def flashes(
    path: Path,
    times: list[Fraction],
    fps: Fraction,
    rate: int = 44_100,
    rotation: int = 0,
    backdrop: list[np.ndarray] | None = None,
) -> list[float]:
    """Write a dark movie with a 0.15 s flash and a 40 ms beep at each event; returns the true instants in seconds.

    With `backdrop` (pictures, 25 a second) the flashes are in their lowest seventh, the rest shows them.
    """
    seconds = [float(t) for t in times]
    begins = [max((t for t in seconds if t <= event + 1e-6), default=-1.0) for event in EVENTS]
    begins = [t for t in begins if t >= 0]
    sound = np.zeros(LENGTH_S * rate, np.float32)
    beep = 0.8 * np.sin(2 * np.pi * 1000 * np.arange(round(0.04 * rate)) / rate)
    for t in begins:
        sound[round(t * rate) : round(t * rate) + len(beep)] = beep
    lit = [any(b <= t < b + 0.15 for b in begins) for t in seconds]

    def frame(at: float, on: bool) -> np.ndarray:
        light = 235 if on else 16
        if backdrop is None:
            return np.full((96, 128, 3), light, np.uint8)
        picture = backdrop[min(len(backdrop) - 1, int(at * 25))].copy()
        picture[len(picture) * 6 // 7 :] = light
        return picture

    frames = (frame(t, on) for t, on in zip(seconds, lit, strict=True))
    write_movie(path, frames, times, fps, sound, rate, rotation)
    return begins


def seen_and_heard(path: Path) -> tuple[np.ndarray, np.ndarray, GridReader]:
    """Instants (s after the first frame) at which flashes are seen on the grid and beeps heard in the sound."""
    reader = GridReader(path)
    light = np.array([frame.picture.rgb().mean() for frame in reader])
    audio, _ = read_audio(path, reader.origin_s, len(light) * 640)
    seen = np.flatnonzero((light[1:] > 120) & (light[:-1] <= 120)) + 1
    loud = np.flatnonzero(np.abs(audio) > 0.2)
    heard = loud[np.r_[True, np.diff(loud) > 4000]] if len(loud) else loud
    return seen / 25, heard / 16_000, reader
