"""From stored scores to a verdict. Thresholds live here alone, so changing one re-measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds of the quality filter; change them with `dualforce refilter`, which re-measures nothing.

    min_duration_s        shorter clips are too_short (published recipes: 2 s)
    min_fps               sources with fewer frames a second are low_frame_rate (20)
    max_gap_s             one frame shown for longer is frozen_picture
    max_decode_errors     more damaged packets within the clip are damaged_video
    min_loudness_db       quieter sound is silent_audio (dBFS; digital silence is -120)
    min_audio_coverage    a sound track that covers less of the clip is audio_missing_part (0..1)
    max_multi_face_share  a second face in more of the frames is several_faces (0..1; recipes: exactly one face)
    min_face_px           smaller faces in the source are face_too_small (pixels)
    min_face_px_at_512    smaller faces in a 512 pixel crop are face_too_small_in_crop (recipes: 200 for training)
    min_coverage          landmarks in fewer of the frames are face_lost (0..1)
    min_identity          a face less like the clip's is other_person (cosine; measured with ArcFace alone)
    min_sharpness         less is blurry (variance of the Laplacian on the face at 128 px)
    min_luminance         darker faces are too_dark (0..255)
    max_luminance         brighter faces are too_bright (0..255)
    min_contrast          flatter faces are low_contrast (0..255)
    max_yaw_deg           heads turned further aside are extreme_pose (degrees)
    max_pitch_deg         heads nodding further are extreme_pose (degrees)
    max_roll_deg          heads tilted further are extreme_pose (degrees)
    min_expression        faces whose lids and lips move less are near_still (share of the face's size)
    max_jitter            faces that shake more from frame to frame are jittery (share of the face's size)
    min_speech_ratio      less speech-like sound is no_speech (0..1)
    max_av_offset_frames  sound that is off by more is audio_out_of_sync (frames of 40 ms; recipes: 6)
    min_av_confidence     an offset less sure than this is not held against the clip
    """

    min_duration_s: float = 2.0  # seconds
    min_fps: float = 20.0  # source frames per second, mean
    max_gap_s: float = 0.5  # seconds
    max_decode_errors: int = 0  # packets or frames
    min_loudness_db: float = -60.0  # dBFS
    min_audio_coverage: float = 0.9  # 0..1
    max_multi_face_share: float = 0.05  # 0..1
    min_face_px: float = 128.0  # pixels in the source
    min_face_px_at_512: float = 200.0  # pixels in a 512 crop
    min_coverage: float = 0.9  # 0..1
    min_identity: float = 0.3  # cosine
    min_sharpness: float = 30.0  # variance of the Laplacian
    min_luminance: float = 30.0  # 0..255
    max_luminance: float = 235.0  # 0..255
    min_contrast: float = 10.0  # 0..255
    max_yaw_deg: float = 60.0  # degrees
    max_pitch_deg: float = 45.0  # degrees
    max_roll_deg: float = 45.0  # degrees
    min_expression: float = 0.004  # share of the face's size
    max_jitter: float = 0.03  # share of the face's size
    min_speech_ratio: float = 0.2  # 0..1
    max_av_offset_frames: float = 6.0  # frames of 40 ms
    min_av_confidence: float = 0.6  # correlation over the median


@dataclass(frozen=True)
class Check:
    """One rule: `score` must be at least (min), at most (max) or within ± (within) `threshold`, or be true (true).

    A score of None passes: it could not be measured, and another check says why. `when`: (score, threshold) that must
    hold as a minimum for the rule to apply. `says` is the explanation; {value} and {limit} are filled in.
    """

    reason: str
    score: str
    rule: Literal["min", "max", "within", "true"]
    threshold: str | None
    says: str
    when: tuple[str, str] | None = None

    def holds(self, value: float, limit: float) -> bool:
        """Whether a measured score keeps within the limit."""
        if self.rule == "within":
            return abs(value) <= limit
        return bool(value) if self.rule == "true" else value >= limit if self.rule == "min" else value <= limit


# In the order in which a person would name them: what is missing altogether, then whose clip, then how good it is.
CHECKS = (
    Check("too_short", "duration_s", "min", "min_duration_s", "{value:.2f} s < {limit:g} s"),
    Check(
        "damaged_video",
        "decode_errors",
        "max",
        "max_decode_errors",
        "{value:.0f} damaged packets or frames > {limit:g}",
    ),
    Check("no_audio", "audio_present", "true", None, "the source has no sound track"),
    Check("silent_audio", "loudness_db", "min", "min_loudness_db", "sound of {value:.0f} dBFS < {limit:g} dBFS"),
    Check(
        "several_faces",
        "multi_face_share",
        "max",
        "max_multi_face_share",
        "a second face in {value:.0%} of the frames > {limit:.0%}",
    ),
    Check("face_too_small", "face_px", "min", "min_face_px", "face {value:.0f} px < {limit:g} px"),
    Check("face_lost", "coverage", "min", "min_coverage", "face found in {value:.0%} of the frames < {limit:.0%}"),
    Check(
        "face_too_small_in_crop",
        "face_px_at_512",
        "min",
        "min_face_px_at_512",
        "face {value:.0f} px of a 512 px crop < {limit:g} px: it moves too far",
    ),
    Check(
        "other_person",
        "identity_consistency",
        "min",
        "min_identity",
        "a face only {value:.2f} like the clip's < {limit:g}",
    ),
    Check(
        "near_still",
        "expression",
        "min",
        "min_expression",
        "lids and lips move by {value:.2%} of the face's size < {limit:.2%}",
    ),
    Check("too_dark", "luminance", "min", "min_luminance", "brightness of the face {value:.0f} < {limit:g}"),
    Check("too_bright", "luminance", "max", "max_luminance", "brightness of the face {value:.0f} > {limit:g}"),
    Check("low_contrast", "contrast", "min", "min_contrast", "contrast of the face {value:.0f} < {limit:g}"),
    Check("blurry", "sharpness", "min", "min_sharpness", "sharpness {value:.0f} < {limit:g}"),
    Check("low_frame_rate", "source_fps", "min", "min_fps", "{value:.1f} frames a second < {limit:g}"),
    Check("frozen_picture", "longest_gap_s", "max", "max_gap_s", "one frame is shown for {value:.2f} s > {limit:g} s"),
    Check("extreme_pose", "yaw_deg", "max", "max_yaw_deg", "head turned {value:.0f}° > {limit:g}°"),
    Check("extreme_pose", "pitch_deg", "max", "max_pitch_deg", "head nodding {value:.0f}° > {limit:g}°"),
    Check("extreme_pose", "roll_deg", "max", "max_roll_deg", "head tilted {value:.0f}° > {limit:g}°"),
    Check("jittery", "jitter", "max", "max_jitter", "the face shakes by {value:.1%} of its size a frame > {limit:.1%}"),
    Check(
        "audio_missing_part",
        "audio_coverage",
        "min",
        "min_audio_coverage",
        "sound for {value:.0%} of the clip < {limit:.0%}",
    ),
    Check(
        "audio_out_of_sync",
        "av_offset_frames",
        "within",
        "max_av_offset_frames",
        "sound off by {value:+.1f} frames, more than ±{limit:g}",
        ("av_confidence", "min_av_confidence"),
    ),
    Check(
        "no_speech",
        "speech_ratio",
        "min",
        "min_speech_ratio",
        "speech-like sound in {value:.0%} of the time < {limit:.0%}",
    ),
)


def verdict(scores: Mapping[str, Any], thresholds: QualityConfig) -> list[tuple[str, str]]:
    """(reason, explanation) of every check that fails, the one a person would name first; empty: accepted.

    Raises KeyError when `scores` lack one that a check needs (they were measured by another version).
    """
    failed: list[tuple[str, str]] = []
    for check in CHECKS:
        value = scores[check.score]
        if value is None or value != value:  # a table reads a missing number back as NaN
            continue
        limit = getattr(thresholds, check.threshold) if check.threshold else True
        if check.when is not None:
            surety, least = scores[check.when[0]], getattr(thresholds, check.when[1])
            if surety is None or not surety >= least:
                continue
        if not check.holds(value, limit):
            failed.append((check.reason, check.says.format(value=value, limit=limit)))
    return failed
