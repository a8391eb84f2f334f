"""Sound of a source as 16 kHz mono on the container's clock, so that it stays with the frames of the grid."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.media.container import open_container
from dualforce_model.timeline import SAMPLE_RATE

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

PREROLL_S = Fraction(1)  # decoders need some packets before the wanted instant (AAC's overlap, MP3's bit reservoir)
JUMP_S = Fraction(5, 1000)  # time stamps further from the sample count are a real hole or overlap, not rounding
TICK = Fraction(1, SAMPLE_RATE)


def read_audio(path: Path, start_s: float, samples: int) -> tuple[np.ndarray, float]:
    """`samples` samples of 16 kHz mono from the instant `start_s` (seconds, container clock) on.

    Returns (float32 [samples] in -1..1, share of it that the track really covers). Instants the track does not cover
    are zeros, as a player would play them. Channels are averaged. Holes and late starts in the time stamps are kept.
    Raises BadInput: no_audio_stream, audio_undecodable, and those of opening.
    """
    start = Fraction(start_s)
    track = _Track(start, samples)
    decoded = 0
    with open_container(path) as container:
        if not container.streams.audio:
            raise BadInput("no_audio_stream", f"{path.name!r} has no audio track")
        stream = container.streams.audio[0]
        base = stream.time_base or TICK
        if start - PREROLL_S > (stream.start_time or 0) * base:
            container.seek(int((start - PREROLL_S) / base), stream=stream, backward=True)
        bad: list[int] = []
        for frame in _frames(container, bad):
            decoded += 1
            track.add(frame)
            if track.until > start + samples * TICK + PREROLL_S:
                break
        track.end_run()
        if bad and not decoded:
            codec = stream.codec_context.name
            raise BadInput("audio_undecodable", f"{path.name!r}: its {codec} audio can't be decoded; encode it again")
    return np.clip(track.samples, -1.0, 1.0), min(1.0, track.covered / max(1, samples))


def _frames(container: InputContainer, bad: list[int]) -> Iterator[AudioFrame]:
    """Decode packet by packet; places of bad packets are added to `bad` and leave a hole."""
    from av.error import FFmpegError

    packets, count = container.demux(container.streams.audio[0]), 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError:
            bad.append(count)
            if len(bad) > count + 1:
                return
            packets = container.demux(container.streams.audio[0])
            continue
        count += 1
        try:
            yield from packet.decode()
        except FFmpegError:
            bad.append(count)


class _Track:
    """Puts decoded sound where it belongs. A run is a stretch without holes, resampled as one."""

    def __init__(self, start: Fraction, samples: int):
        self.samples = np.zeros(samples, np.float32)
        self.covered = 0
        self.until = Fraction(0)  # instant up to which sound was added
        self._start = start
        self._resampler: Any = None
        self._run = Fraction(0)  # instant at which the run began
        self._placed = 0  # samples of the run already written

    def add(self, frame: AudioFrame) -> None:
        from av import AudioResampler

        time = self.until if frame.pts is None else frame.pts * (frame.time_base or TICK)
        if self._resampler is None or abs(time - self.until) > JUMP_S:
            self.end_run()
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            self._run, self._placed, self.until = time, 0, time
        self.until += Fraction(frame.samples, frame.sample_rate)
        self._place(self._resampler.resample(frame))

    def end_run(self) -> None:
        if self._resampler is not None:
            self._place(self._resampler.resample(None))
            self._resampler = None

    def _place(self, pieces: list[AudioFrame]) -> None:
        for piece in pieces:
            data = piece.to_ndarray().reshape(-1)
            at = round((self._run - self._start) / TICK) + self._placed
            self._placed += len(data)
            low, high = max(0, at), min(len(self.samples), at + len(data))
            if low < high:
                self.samples[low:high] = data[low - at : high - at]
                self.covered += high - low
