"""Sound of a source as 16 kHz mono on the container's clock, so that it stays with the frames of the grid."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.media.container import open_container
from dualforce_model.timeline import SAMPLE_RATE

PREROLL_S = 1.0  # decoders need some packets before the wanted instant (AAC's overlap, MP3's bit reservoir)
JUMP_S = 0.005  # time stamps that disagree with the sample count by more are a real hole or overlap, not rounding


def read_audio(path: Path, start_s: float, samples: int) -> tuple[np.ndarray, float]:
    """`samples` samples of 16 kHz mono from the instant `start_s` (seconds, container clock) on.

    Returns (float32 [samples] in -1..1, share of it that the track really covers). Instants the track does not cover
    are zeros, as a player would play them. Channels are averaged. Holes and late starts in the time stamps are kept.
    Raises BadInput: no_audio_stream, audio_undecodable, and those of opening.
    """
    from av import AudioResampler
    from av.error import FFmpegError

    out = np.zeros(samples, np.float32)
    covered = errors = frames = 0
    with open_container(path) as container:
        if not container.streams.audio:
            raise BadInput("no_audio_stream", f"{path.name!r} has no audio track")
        stream = container.streams.audio[0]
        base = Fraction(stream.time_base or Fraction(1, SAMPLE_RATE))
        begin = Fraction(stream.start_time or 0) * base
        if start_s - PREROLL_S > begin:
            container.seek(int((Fraction(start_s) - Fraction(PREROLL_S)) / base), stream=stream, backward=True)
        resampler: AudioResampler | None = None
        run_start, run_in, run_out = Fraction(0), 0, 0

        def place(chunks: list) -> int:
            """Write resampled pieces where they belong; they follow each other from `run_start` on."""
            nonlocal run_out
            kept = 0
            for chunk in chunks:
                data = chunk.to_ndarray().reshape(-1)
                at = round((run_start - Fraction(start_s)) * SAMPLE_RATE) + run_out
                run_out += len(data)
                lo, hi = max(0, at), min(samples, at + len(data))
                if lo < hi:
                    out[lo:hi] = data[lo - at : hi - at]
                    kept += hi - lo
            return kept

        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, FFmpegError):
                break
            try:
                decoded = packet.decode()
            except FFmpegError:
                errors += 1
                continue
            done = False
            for frame in decoded:
                frames += 1
                time = frame.pts * Fraction(frame.time_base) if frame.pts is not None else None
                expected = run_start + Fraction(run_in, frame.sample_rate)
                if resampler is None or (time is not None and abs(time - expected) > JUMP_S):
                    if resampler is not None:
                        covered += place(resampler.resample(None))
                    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
                    run_start, run_in, run_out = (time if time is not None else begin), 0, 0
                run_in += frame.samples
                covered += place(resampler.resample(frame))
                done = run_start + Fraction(run_in, frame.sample_rate) > start_s + Fraction(samples, SAMPLE_RATE) + 1
            if done:
                break
        if resampler is not None:
            covered += place(resampler.resample(None))
        if errors and not frames:
            raise BadInput(
                "audio_undecodable", f"{path.name!r}: its {stream.codec_context.name} audio cannot be decoded"
            )
    return np.clip(out, -1.0, 1.0), min(1.0, covered / max(1, samples))
