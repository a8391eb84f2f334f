"""The handle through which every later stage reads one cropped clip: pictures, sound, landmarks, facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.store import read_tensors
from dualforce_model.timeline import SAMPLES_PER_FRAME


@dataclass(frozen=True)
class Clip:
    """Clip `clip_id` in `folder`: 25 fps constant, square, 16 kHz mono. Its side-car is written last."""

    folder: Path
    clip_id: str

    @property
    def video(self) -> Path:
        return self.folder / f"{self.clip_id}.mp4"

    @property
    def landmarks(self) -> Path:
        return self.folder / f"{self.clip_id}.landmarks.safetensors"

    @property
    def sidecar(self) -> Path:
        return self.folder / f"{self.clip_id}.json"

    @cached_property
    def info(self) -> dict[str, Any]:
        """Facts from the side-car. Raises FileNotFoundError when the clip was not published."""
        return json.loads(self.sidecar.read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    @property
    def frame_count(self) -> int:
        return int(self.info["frames"])

    @property
    def has_audio(self) -> bool:
        return self.info["source"]["audio"] is not None

    def frames(self) -> Iterator[np.ndarray]:
        """RGB uint8 [size,size,3], `frame_count` of them, one in memory at a time. Raises BadInput damaged_clip."""
        import av
        from av.error import FFmpegError
        from av.video.reformatter import VideoReformatter

        count, reformatter = 0, VideoReformatter()
        try:
            with open(self.video, "rb") as file, av.open(file, "r") as container:
                container.streams.video[0].codec_context.thread_count = 1
                for frame in container.decode(container.streams.video[0]):
                    yield reformatter.reformat(frame, format="rgb24").to_ndarray()
                    count += 1
        except FFmpegError as error:
            raise self._damaged(f"frame {count} cannot be decoded ({error})") from error
        if count != self.frame_count:
            raise self._damaged(f"{count} frames instead of {self.frame_count}")

    def audio(self) -> np.ndarray:
        """float32 [frame_count * 640], 16 kHz mono; zeros when the source has no sound track (see `has_audio`)."""
        import av
        from av.error import FFmpegError

        wanted = self.frame_count * SAMPLES_PER_FRAME
        if not self.has_audio:
            return np.zeros(wanted, np.float32)
        try:
            with open(self.video, "rb") as file, av.open(file, "r") as container:
                pieces = [frame.to_ndarray().reshape(-1) for frame in container.decode(container.streams.audio[0])]
        except (FFmpegError, IndexError) as error:
            raise self._damaged(f"its sound cannot be decoded ({error})") from error
        samples = np.concatenate(pieces)
        if len(samples) != wanted:
            raise self._damaged(f"{len(samples)} samples instead of {wanted}")
        return samples.astype(np.float32) / 32768.0

    def read_landmarks(self) -> dict[str, np.ndarray]:
        """The arrays of the landmarks file; see `faces.mesh.ARRAYS` for names, shapes and units."""
        return read_tensors(self.landmarks)

    def _damaged(self, what: str) -> BadInput:
        return BadInput("damaged_clip", f"{self.video.name}: {what}; delete it and run the face crop again")
