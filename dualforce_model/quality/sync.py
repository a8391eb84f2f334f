"""Whether sound and mouth belong together: the mouth's opening against the sound's energy, shifted against each other.

Sign: an offset of +n frames means that the sound comes n frames after the mouth movement (the sound is late).
SyncNet (Chung & Zisserman 2016) finds the offset in the same way with a learnt distance; its confidence, too, is the
height of the best lag over the median of all. The recipe |offset| <= 6 frames at 25 fps is LatentSync's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualforce_model.timeline import FPS

LAGS = 15  # frames to either side: 600 ms
SHORTEST = 2 * LAGS + 10  # frames: with fewer, a lag is judged by a handful of frames
STILL = 0.002  # of the face's height: an opening that varies less is the landmarks' noise


@dataclass(frozen=True)
class Offset:
    """frames: fractional, + = sound late. correlation: at the best lag. confidence: that over the median lag's."""

    frames: float
    correlation: float
    confidence: float


def mouth_opening(landmarks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Distance of the inner lips over the height of the face, float [T]; interpolated where there is no face.

    landmarks: [T,478,3] of MediaPipe's mesh: 13 and 14 are the inner lips, 10 and 152 forehead and chin.
    """
    if not valid.any():
        return np.zeros(len(valid))
    points = landmarks[valid].astype(np.float64)
    lips = np.linalg.norm(points[:, 13] - points[:, 14], axis=1)
    face = np.linalg.norm(points[:, 10, :2] - points[:, 152, :2], axis=1)
    # the face's height is taken over a second, or an opening jaw would divide itself away
    opening = lips / np.maximum(np.maximum(face, np.median(face) * 0.5), 1e-6)
    return np.interp(np.arange(len(valid)), np.flatnonzero(valid), opening)


def av_offset(opening: np.ndarray, energy: np.ndarray) -> Offset | None:
    """Offset of the sound (energy [T]) against the mouth (opening [T]); None when nothing moves or too short."""
    if len(opening) < SHORTEST or opening.std() < STILL or energy.max(initial=0.0) <= 0:
        return None
    mouth, sound = _local(opening), _local(np.sqrt(energy))  # square root: loud vowels must not outweigh all others
    scores = np.array([_correlation(mouth, sound, lag) for lag in range(-LAGS, LAGS + 1)])
    best = int(scores.argmax())
    between = 0.0
    if 0 < best < 2 * LAGS:  # the top of the parabola through the best lag and its neighbours
        left, top, right = scores[best - 1 : best + 2]
        between = 0.5 * (left - right) / (left - 2 * top + right) if left - 2 * top + right < 0 else 0.0
    return Offset(best - LAGS + float(between), float(scores[best]), float(scores[best] - np.median(scores)))


def _local(signal: np.ndarray) -> np.ndarray:
    """`signal` without its mean over the second around: slow changes of pose and loudness say nothing of the offset."""
    width = FPS
    padded = np.pad(signal, (width // 2, width // 2), mode="edge")
    return signal - np.convolve(padded, np.ones(width) / width, "valid")


def _correlation(mouth: np.ndarray, sound: np.ndarray, lag: int) -> float:
    """Pearson's, of the frames that overlap when the sound is moved `lag` frames earlier."""
    a, b = (mouth[: len(mouth) - lag], sound[lag:]) if lag >= 0 else (mouth[-lag:], sound[:lag])
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0
