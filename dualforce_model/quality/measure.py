"""Every score of a clip, from its side-car, its landmarks file and its sound; no picture is decoded again."""

from __future__ import annotations

from typing import Any

import numpy as np

from dualforce_model.faces import identity
from dualforce_model.features.head import RIGID, fit_pose
from dualforce_model.media import Clip
from dualforce_model.quality import silero
from dualforce_model.quality.config import MeasureConfig
from dualforce_model.quality.sound import listen
from dualforce_model.quality.sync import av_offset, mouth_opening
from dualforce_model.timeline import FPS

MEASURE_VERSION = "1"  # change it whenever a score of the same clip changes
SMOOTH = 5  # frames
PUBLISHED_SIZE = 512  # the crop size in which published recipes give the face's size

# score -> (unit, what it is); a score is None where it can't be measured (no sound track, no face)
SCORES = {
    "duration_s": ("s", "length of the clip"),
    "source_fps": ("1/s", "mean frame rate of the source"),
    "source_width": ("px", "width of the source as shown"),
    "source_height": ("px", "height of the source as shown"),
    "decode_errors": ("", "damaged packets or frames of the source within the clip"),
    "longest_gap_s": ("s", "longest time that the source shows one frame"),
    "face_px": ("px", "median size of the face in the source"),
    "face_px_at_512": ("px", "the same in a crop of 512 pixels"),
    "coverage": ("", "share of the frames in which the landmarks are found"),
    "faces_max": ("", "most faces seen at once"),
    "multi_face_share": ("", "share of the frames with a second face of at least a quarter of this one's size"),
    "other_face_px": ("px", "size of the largest other face in the source"),
    "padding": ("", "share of the crop outside the source picture"),
    "yaw_deg": ("°", "how far the head is turned aside, 95th percentile of the absolute value"),
    "pitch_deg": ("°", "how far it nods, likewise"),
    "roll_deg": ("°", "how far it is tilted, likewise"),
    "yaw_range_deg": ("°", "from its 5th to its 95th percentile"),
    "pitch_range_deg": ("°", "likewise"),
    "roll_range_deg": ("°", "likewise"),
    "sharpness": ("", "variance of the Laplacian of the grey face at 128 px, median"),
    "luminance": ("0..255", "brightness of the face, median"),
    "contrast": ("0..255", "standard deviation of the face's brightness, median"),
    "change": ("0..255", "change of the picture from frame to frame, median"),
    "expression": ("", "how much lids and lips move against the rest of the face, as a share of its size"),
    "jitter": ("", "median acceleration of the landmarks per frame squared, as a share of the face's size"),
    "mouth_motion": ("", "standard deviation of the mouth's opening, as a share of the face's height"),
    "audio_present": ("", "whether the source has a sound track"),
    "audio_coverage": ("", "share of the clip that the sound track covers"),
    "loudness_db": ("dBFS", "root mean square of the sound"),
    "speech_ratio": ("", "share of the time with speech-like sound"),
    "av_offset_frames": ("frames", "how much later than the mouth the sound comes, at 25 frames a second"),
    "av_correlation": ("", "correlation of mouth and sound at that offset"),
    "av_confidence": ("", "how far that stands out of the other offsets"),
    "identity_consistency": ("", "lowest likeness of a frame's face to the clip's (cosine; needs ArcFace)"),
    "identity_drift": ("", "change of the face's identity from beginning to end (1 - cosine; needs ArcFace)"),
}

Score = float | bool | None
DEFAULT = MeasureConfig()


def measure(clip: Clip, config: MeasureConfig = DEFAULT, embedded: np.ndarray | None = None) -> dict[str, Score]:
    """All of `SCORES` for one clip. Raises BadInput damaged_clip when its sound can't be read back.

    embedded: what `faces.identity.embed` says of it [N,512], where `config.identity` wants that measured.
    """
    info, arrays = clip.info, clip.read_landmarks()
    faces, source = info["faces"], info["source"]
    landmarks, valid = arrays["landmarks"], arrays["valid"]
    opening = mouth_opening(landmarks, valid)
    scores: dict[str, Score] = dict.fromkeys(SCORES)
    scores |= {
        "duration_s": info["frames"] / FPS,
        "source_fps": source["fps_measured"],
        "source_width": source["width"],
        "source_height": source["height"],
        "decode_errors": info["decode_errors"],
        "longest_gap_s": info["longest_gap_s"],
        "face_px": faces["face_px"],
        "face_px_at_512": faces["face_px"] * PUBLISHED_SIZE / info["box"][2],
        "audio_present": clip.has_audio,
        "mouth_motion": float(opening.std()),
    }
    scores |= {name: faces[name] for name in ("coverage", "faces_max", "multi_face_share", "other_face_px", "padding")}
    scores |= _pixels(arrays) | _motion(landmarks, valid) | _pose(landmarks[valid])
    if clip.has_audio:
        sound = listen(clip.audio())
        scores |= {
            "audio_coverage": info["audio_coverage"],
            "loudness_db": sound.loudness_db,
            "speech_ratio": silero.speech_ratio(clip.audio()) if config.speech == "silero" else sound.speech_ratio,
        }
        offset = av_offset(opening, sound.energy)
        if offset is not None:
            scores["av_offset_frames"] = offset.frames
            scores["av_correlation"], scores["av_confidence"] = offset.correlation, offset.confidence
    if embedded is not None and len(embedded):
        scores["identity_consistency"] = identity.consistency(embedded)
        scores["identity_drift"] = identity.drift(embedded)
    return {name: _plain(value) for name, value in scores.items()}


def _plain(value: Any) -> Score:
    """Plain data with six digits, so that scores compare equal after a trip through a file."""
    return value if value is None or isinstance(value, bool) else round(float(value), 6)


def _pixels(arrays: dict[str, np.ndarray]) -> dict[str, Score]:
    valid, fresh = arrays["valid"], arrays["fresh"].copy()
    fresh[:1] = False  # the first frame has no frame before it
    scores: dict[str, Score] = {"change": float(np.median(arrays["change"][fresh])) if fresh.any() else 0.0}
    if valid.any():
        scores |= {name: float(np.median(arrays[name][valid])) for name in ("sharpness", "luminance", "contrast")}
    return scores


def _motion(landmarks: np.ndarray, valid: np.ndarray) -> dict[str, Score]:
    """Expression and jitter; both need neighbouring frames with a face."""
    if valid.sum() < 3:
        return {}
    points = landmarks[valid][:, :468, :2].astype(np.float64)
    middle = points.mean(1, keepdims=True)
    size = float(np.median(np.sqrt(np.prod(points.max(1) - points.min(1), axis=1))))
    shape = points - middle
    # turn and scale every frame onto the middle one (Procrustes), so that only the change of the shape itself is left
    u, stretch, vt = np.linalg.svd(np.einsum("tni,nj->tij", shape, shape[len(shape) // 2]))
    scale = stretch.sum(1) / np.maximum((shape**2).sum((1, 2)), 1e-9)
    aligned = scale[:, None, None] * (shape @ (u @ vt))
    spread = np.linalg.norm(_smooth(aligned).std(0), axis=1)  # of each landmark over time
    expression = float(np.percentile(spread, 95)) / max(size, 1e-6)  # of the liveliest: lids and lips
    triples = valid[:-2] & valid[1:-1] & valid[2:]
    jitter: float | None = None
    if triples.any():
        at = np.flatnonzero(triples)
        mesh = landmarks[:, :468:9, :2].astype(np.float64)  # every ninth landmark says as much as all
        jitter = float(np.median(np.linalg.norm(mesh[at] - 2 * mesh[at + 1] + mesh[at + 2], axis=2))) / max(size, 1e-6)
    return {"expression": expression, "jitter": jitter}


def _smooth(track: np.ndarray) -> np.ndarray:
    """Mean over `SMOOTH` frames: landmarks tremble from frame to frame on a still, noisy picture, faces don't."""
    if len(track) < 2 * SMOOTH:
        return track
    total = np.cumsum(np.concatenate([np.zeros_like(track[:1]), track]), axis=0)
    return (total[SMOOTH:] - total[:-SMOOTH]) / SMOOTH


def _pose(landmarks: np.ndarray) -> dict[str, Score]:
    """Angles of the head against the camera's axis, from the rigid landmarks of frames with a face [n,478,3]."""
    if not len(landmarks):
        return {}
    rotation, _, _ = fit_pose(landmarks[:, RIGID].astype(np.float64))
    ahead = -rotation[:, :, 2]  # where the nose points: (0, 0, -1) in a frontal picture
    angles = {
        "yaw": np.arctan2(ahead[:, 0], -ahead[:, 2]),
        "pitch": np.arcsin(np.clip(ahead[:, 1], -1, 1)),
        "roll": np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
    }
    scores: dict[str, Score] = {}
    for name, angle in angles.items():
        degrees = np.degrees(angle)
        low, high = np.percentile(degrees, [5, 95])
        scores[f"{name}_deg"] = float(np.percentile(np.abs(degrees), 95))
        scores[f"{name}_range_deg"] = float(high - low)
    return scores
