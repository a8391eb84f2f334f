"""What can be set about finding and cropping faces. Every field decides the bytes of the clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dualforce_model.config import ConfigError

# Change them whenever the same source and config give other bytes: all clips, and those with the landmarker's landmarks.
VERSION = "1"
LANDMARKER_VERSION = "2"


@dataclass(frozen=True)
class FaceCropConfig:
    """How faces are found and cropped.

    backend             who finds faces: `mediapipe` carries its models in its package, `insightface` needs weights
    insightface         which of InsightFace's detectors: that of `buffalo_l`, or the small and quick `scrfd_500m`
    landmarks           who finds the 478 points: MediaPipe's bundled `mesh`, or its newer `landmarker` (needs weights), which
                        measures 52 blendshapes and the head's matrix as well
    size                width and height of the clips in pixels; a multiple of 16, 512 for the published models
    margin              side of the crop over the side of the face box; 2 shows hair, chin and some shoulder
    shift_up            how far the crop's centre lies above the face box's, as a share of the face box
    cut_threshold       change of hue, saturation and brightness (0..255) that is a shot cut; 27 is PySceneDetect's own
    detect_every        frames between two looks for faces (25 frames = 1 s)
    min_detection       confidence from which a detection counts (0..1)
    min_presence        landmark model's confidence from which a face is human (0..1); animals and toys stay below it
    min_track_px        faces smaller than this in the source are neither cropped nor counted
    max_tracks          largest faces per shot that become clips; further ones are counted only
    min_shot_s          shorter shots are left out
    max_clip_s          longer shots are cut into equal parts, so that memory does not grow with length
    """

    backend: Literal["mediapipe", "insightface"] = "mediapipe"  # finder of faces
    insightface: Literal["buffalo_l", "scrfd_500m"] = "buffalo_l"  # its detector
    landmarks: Literal["mesh", "landmarker"] = "mesh"  # finder of landmarks
    size: int = 512  # pixels, width and height of the clips
    margin: float = 2.0  # crop side / face box side
    shift_up: float = 0.05  # of the face box
    cut_threshold: float = 27.0  # 0..255
    detect_every: int = 5  # frames
    min_detection: float = 0.5  # 0..1
    min_presence: float = 0.99  # 0..1
    min_track_px: float = 32.0  # pixels in the source
    max_tracks: int = 2  # clips per shot
    min_shot_s: float = 0.4  # seconds
    max_clip_s: float = 60.0  # seconds

    @property
    def version(self) -> str:
        """Version of what the configured backends do."""
        return f"{VERSION}, landmarker {LANDMARKER_VERSION}" if self.landmarks == "landmarker" else VERSION

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 16:
            raise ConfigError(f"size: expected a multiple of 16 of at least 64, got {self.size}")
        if self.margin < 1:
            raise ConfigError(
                f"margin: a crop smaller than the face cuts it off; expected at least 1, got {self.margin}"
            )
        if self.detect_every < 1 or self.max_tracks < 1:
            raise ConfigError("detect_every and max_tracks: expected at least 1")
        if self.max_clip_s < 1 or self.max_clip_s < self.min_shot_s:
            raise ConfigError(f"max_clip_s: expected at least 1 s and min_shot_s, got {self.max_clip_s}")
