"""Vowel-like speech: glottal pulses through formant resonators (source-filter), and the mouth that goes with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# First three formants in Hz (Peterson & Barney 1952, men) and how far the mouth opens for it, 0 closed .. 1 wide.
VOWELS = {
    "a": ((730.0, 1090.0, 2440.0), 1.0),
    "e": ((530.0, 1840.0, 2480.0), 0.7),
    "i": ((270.0, 2290.0, 3010.0), 0.4),
    "o": ((570.0, 840.0, 2410.0), 0.75),
    "u": ((300.0, 870.0, 2240.0), 0.35),
}
BANDWIDTHS = (80.0, 110.0, 160.0)
LOUDEST = 0.35  # peak of the finished sound, full scale = 1


@dataclass(frozen=True)
class Syllable:
    """One vowel: from `start` for `length` seconds, at pitch `f0` Hz, spoken with `effort` 0..1."""

    start: float
    length: float
    vowel: str
    f0: float
    effort: float


def utterance(rng: np.random.Generator, seconds: float, pitch: float) -> list[Syllable]:
    """Syllables in phrases of three to six with pauses between, filling `seconds`; the last one ends before the end."""
    syllables: list[Syllable] = []
    now = 0.15
    while True:
        count = int(rng.integers(3, 7))
        for k in range(count):
            length = float(rng.uniform(0.16, 0.30))
            if now + length > seconds - 0.05:
                return syllables
            fall = 1.12 - 0.24 * k / count  # the pitch of a phrase declines
            vowel = str(rng.choice(list(VOWELS)))
            syllables.append(
                Syllable(now, length, vowel, pitch * fall * rng.uniform(0.95, 1.05), float(rng.uniform(0.7, 1.0)))
            )
            now += length + float(rng.uniform(0.02, 0.08))
        now += float(rng.uniform(0.25, 0.5))


def mouth_opening(syllables: list[Syllable], times: np.ndarray) -> np.ndarray:
    """Mouth opening 0..1 at each of `times` (seconds): a raised cosine per syllable as high as its vowel is open."""
    opening = np.zeros(len(times))
    for s in syllables:
        phase = np.clip((times - s.start) / s.length, 0, 1)
        opening = np.maximum(opening, VOWELS[s.vowel][1] * s.effort * np.sin(np.pi * phase) ** 2)
    return opening


def speak(rng: np.random.Generator, syllables: list[Syllable], seconds: float, rate: int) -> np.ndarray:
    """The sound of `syllables`: float32 mono in -1..1, `round(seconds * rate)` samples; pauses are faint room noise."""
    sound = np.zeros(round(seconds * rate))
    for s in syllables:
        first = round(s.start * rate)
        phase = np.arange(round(s.length * rate)) / (s.length * rate)
        voiced = _resonate(_glottis(rng, s, phase, rate), VOWELS[s.vowel][0], rate)
        voiced /= np.abs(voiced).max() + 1e-9
        loud = VOWELS[s.vowel][1] * s.effort * np.sin(np.pi * phase) ** 1.5
        sound[first : first + len(phase)] += voiced * loud
    sound *= LOUDEST / (np.abs(sound).max() + 1e-9)
    return (sound + 3e-4 * rng.standard_normal(len(sound))).astype(np.float32)


def _glottis(rng: np.random.Generator, syllable: Syllable, phase: np.ndarray, rate: int) -> np.ndarray:
    """Rosenberg pulses (Rosenberg 1971, open quotient 0.6) differentiated by the lips, with vibrato and some breath."""
    f0 = syllable.f0 * (1 + 0.03 * np.sin(np.pi * phase) + 0.008 * np.sin(2 * np.pi * 5.5 * phase * syllable.length))
    cycle = np.cumsum(f0 / rate) % 1.0
    rise, fall = 0.4, 0.2
    pulse = np.where(
        cycle < rise,
        0.5 * (1 - np.cos(np.pi * cycle / rise)),
        np.where(cycle < rise + fall, np.cos(0.5 * np.pi * (cycle - rise) / fall), 0.0),
    )
    flow = np.diff(pulse, prepend=0.0)
    return flow + 0.03 * np.abs(flow).max() * rng.standard_normal(len(flow))


def _resonate(source: np.ndarray, formants: tuple[float, ...], rate: int) -> np.ndarray:
    """Cascade of two-pole resonators (Klatt 1980), applied in the frequency domain: no loop over samples."""
    size = len(source) + rate // 10  # room for the ringing, so that it does not wrap around
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones(size // 2 + 1, dtype=complex)
    for formant, bandwidth in zip(formants, BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / rate)
        b, c = 2 * radius * np.cos(2 * np.pi * formant / rate), -(radius**2)
        response *= (1 - b - c) / (1 - b * z - c * z**2)
    return np.fft.irfft(np.fft.rfft(source, size) * response, size)[: len(source)]
