"""Small clips of which everything is known, in the files of real ones: H.264, FLAC, landmarks, side-car."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dualforce_model.features import head
from dualforce_model.media import Clip, write_video
from dualforce_model.store import write_json, write_tensors
from dualforce_model.timeline import SAMPLES_PER_FRAME


def face_points(rotation, scale: float, translation, size: int, offsets=None) -> np.ndarray:
    """Landmarks [478,3] in pixels of the canonical head in a pose; `offsets` [21,3] move its keypoints."""
    points = np.zeros((head.LANDMARKS, 3))
    points[head.RIGID] = head.RIGID_SHAPE
    points[head.KEYPOINTS] = head.KEYPOINT_SHAPE + (0 if offsets is None else offsets)
    image = scale * points @ np.asarray(rotation).T + np.array([*translation, 0])
    return ((image + np.array([1, 1, 0])) * size / 2).astype(np.float32)


def make_clip(folder: Path, clip_id: str, frames, audio=None, landmarks=None, valid=None, sharpness=None) -> Clip:
    """Write a clip of RGB `frames` [T,size,size,3]; by default silent, with a frontal face that stands still."""
    count, size = len(frames), frames[0].shape[0]
    clip = Clip(folder, clip_id)
    folder.mkdir(parents=True, exist_ok=True)
    audio = np.zeros(count * SAMPLES_PER_FRAME, np.float32) if audio is None else audio
    write_video(clip.video, iter(frames), audio)
    still = face_points(np.eye(3), 0.6, (0, 0), size)
    arrays = {
        "landmarks": np.repeat(still[None], count, 0) if landmarks is None else landmarks,
        "valid": np.ones(count, bool) if valid is None else valid,
        "sharpness": np.ones(count, np.float32) if sharpness is None else sharpness,
    }
    write_tensors(clip.landmarks, arrays, {"identity": clip_id})
    facts = {
        "clip_id": clip_id,
        "source_id": clip_id,
        "frames": count,
        "size": size,
        "source": {"audio": {"codec": "flac"}},
    }
    write_json(clip.sidecar, facts)
    return clip
