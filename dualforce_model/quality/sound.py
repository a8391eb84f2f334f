"""What is in the sound of a clip: how loud it is, how much of it is speech, its energy frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualforce_model.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME

FLOOR_DB = -120.0  # what digital silence is written as
WINDOW, HOP = SAMPLES_PER_FRAME, SAMPLES_PER_FRAME // 2  # 40 ms, twice per frame
SPEECH_BAND = (200.0, 4000.0)  # Hz: voicing and formants, without hum and hiss
ABOVE_NOISE_DB = 9.0  # speech stands out of the quietest tenth of the clip by this much
AUDIBLE_DB = -55.0  # and is at least this loud in its band
BAND_SHARE = 0.3  # and holds this share of all energy (wind, rumble and clicks hold less)


@dataclass(frozen=True)
class Sound:
    """loudness_db: RMS of the whole clip in dBFS. speech_ratio: share of 20 ms steps that hold speech, 0..1.

    energy: float [T], RMS in the speech band of the 40 ms around each frame's instant.
    """

    loudness_db: float
    speech_ratio: float
    energy: np.ndarray


def listen(audio: np.ndarray) -> Sound:
    """Analyse 16 kHz mono float [T*640] in pieces (memory stays small whatever T).

    The speech decision is the classic energy and band detector (ITU-T G.729 B's ideas without its fixed tables).
    """
    steps = len(audio) // HOP
    band, whole = np.zeros(steps), np.zeros(steps)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    inside = (frequencies >= SPEECH_BAND[0]) & (frequencies <= SPEECH_BAND[1])
    padded = np.pad(audio, (HOP, HOP))  # step k is centred on sample k*HOP: step 2r on the instant of frame r
    window = np.hanning(WINDOW).astype(np.float32)
    for begin in range(0, steps, 2048):
        end = min(steps, begin + 2048)
        pieces = np.lib.stride_tricks.sliding_window_view(padded[begin * HOP : (end - 1) * HOP + WINDOW], WINDOW)[::HOP]
        power = np.abs(np.fft.rfft(pieces * window, axis=1)) ** 2 / (WINDOW * float((window**2).sum()))
        band[begin:end], whole[begin:end] = 2 * power[:, inside].sum(1), 2 * power.sum(1)
    band_db = 10 * np.log10(band + 1e-12)
    speech = (band_db > max(AUDIBLE_DB, float(np.percentile(band_db, 10)) + ABOVE_NOISE_DB)) & (
        band > BAND_SHARE * whole
    )
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
    loudness = max(FLOOR_DB, 20 * np.log10(rms)) if rms > 0 else FLOOR_DB
    return Sound(float(loudness), float(speech.mean()), np.sqrt(band[::2]))
