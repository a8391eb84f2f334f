"""Moving pictures and sound as files: probe, decode on the 25 fps grid, encode. It knows nothing of faces or models."""

from dualforce_model.media.clip import Clip
from dualforce_model.media.probe import AudioInfo, SourceInfo, probe
from dualforce_model.media.sound import read_audio
from dualforce_model.media.video import GridFrame, GridReader
from dualforce_model.media.writer import VideoWriter, write_video

__all__ = [
    "AudioInfo",
    "Clip",
    "GridFrame",
    "GridReader",
    "SourceInfo",
    "VideoWriter",
    "probe",
    "read_audio",
    "write_video",
]
