"""Compare backends on your own clips: the head's rotation, the mouth, speech and face boxes, a row for each clip.

The embedded backends against Face Landmarker, Silero and SCRFD, whose weights `dualforce weights fetch` brings.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dualforce_model.errors import Verdict
from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.faces.detect import detector
from dualforce_model.faces.insightface import insightface_detector
from dualforce_model.faces.landmarker import JAW_OPEN, Landmarker, rotation_of
from dualforce_model.features import head
from dualforce_model.media import Clip
from dualforce_model.quality.silero import speech_ratio
from dualforce_model.quality.sound import listen
from dualforce_model.quality.sync import mouth_opening


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="videos")
    parser.add_argument("--frames", type=int, default=150, help="first ones of each clip")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Rows by clip; a video without a clip is told in `left_out`."""
    rows: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for path in args.clips:
        with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as folder:
            try:
                found = crop_source(path, path.stem, path.stem, Path(folder), FaceCropConfig())
                for facts in found:
                    rows[facts["clip_id"]] = agreement(Clip(Path(folder), facts["clip_id"]), args.frames)
            except Verdict as error:
                left_out[path.stem] = str(error)
    return {"clips": rows, "left_out": left_out}


def agreement(clip: Clip, count: int) -> dict[str, float | int | None]:
    """Angles in degrees between the head's rotations; correlations; shares of speech; sides of the face's box.

    mouth_later: correlation with the landmarker's next frame, mouth_earlier with the one before; as large as each other
    unless one of the two lags. What cannot be told (no sound, fewer than 10 frames with a face) is None.
    """
    landmarks, valid = head.landmarks_of(clip)
    landmarks, valid = landmarks[:count], valid[:count]
    frames = list(islice(clip.frames(), len(valid)))
    task = Landmarker(0.5)
    told = [(task.points(frame), task.blendshapes[JAW_OPEN], task.matrix) for frame in frames]
    task.close()
    seen = np.array([points is not None for points, _, _ in told]) & valid
    sound = clip.audio() if clip.has_audio else None
    out: dict[str, Any] = {
        "frames": int(seen.sum()),
        "speech_energy": None if sound is None else round(listen(sound).speech_ratio, 3),
        "speech_silero": None if sound is None else round(speech_ratio(sound), 3),
        "box": _boxes(frames[0]),
    }
    if seen.sum() < 10:
        return out
    size = int(clip.info["size"])
    ours = head.track_head(landmarks, valid, size).rotation[seen]
    theirs = rotation_of(np.stack([matrix for _, _, matrix in told])[seen])
    angles = np.degrees(np.arccos(np.clip((np.einsum("tij,tij->t", ours, theirs) - 1) / 2, -1, 1)))
    points = np.stack([np.zeros((478, 3)) if each is None else each * size for each, _, _ in told])
    mouth, other = mouth_opening(landmarks, valid)[seen], mouth_opening(points, seen)[seen]
    jaw = np.array([opening for _, opening, _ in told])[seen]
    return out | {
        "rotation_median": round(float(np.median(angles)), 2),
        "rotation_95": round(float(np.percentile(angles, 95)), 2),
        "mouth": _together(mouth, other),
        "mouth_earlier": _together(mouth[1:], other[:-1]),
        "mouth_later": _together(mouth[:-1], other[1:]),
        "mouth_jaw_open": _together(mouth, jaw),
        "mouth_deviation": round(float(mouth.std()), 4),
    }


def _together(a: np.ndarray, b: np.ndarray) -> float:
    return round(float(np.corrcoef(a, b)[0, 1]), 3)


def _boxes(frame: np.ndarray) -> float | None:
    """Side of MediaPipe's box over that of SCRFD-500M."""
    ours = detector(0.5, 0.99).search(frame, 1.0, [], tiles=False)
    theirs = insightface_detector("scrfd_500m", 0.5, 0.99).search(frame, 1.0, [], tiles=False)
    return round(ours[0].side / theirs[0].side, 2) if ours and theirs else None
