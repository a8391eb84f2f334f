"""From files to a file: picture and sound in, mp4 with that sound out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dualforce_model.errors import BadInput
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.inputs import check_sound, read_picture, read_sound
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker
from dualforce_model.store import publish
from dualforce_model.timeline import FPS, SAMPLE_RATE, sample_of_raw

Crop = Callable[[np.ndarray, int], np.ndarray]  # (RGB picture, size) -> RGB [size,size,3]


@dataclass(frozen=True)
class Generated:
    """What was written."""

    path: Path
    frames: int

    @property
    def seconds(self) -> float:
        return self.frames / FPS


def generate(
    checkpoint: Path | Talker,
    image: Path | np.ndarray,
    audio: Path | np.ndarray,
    out: Path,
    config: GenerateConfig | None = None,
    crop: Crop | None = None,
    device: str | None = None,
) -> Generated:
    """Write `out` (mp4, H.264 + AAC): the face of `image` says `audio`.

    image: a picture file, whose face is found and cropped by `crop` (default: as the face crop stage does); or RGB
    uint8 [size,size,3], cropped already. audio: a file with sound, or float [samples] at 16 kHz. The sound is filled up
    with silence to whole frames. Bad input is refused before the model is loaded.
    Raises BadInput (see `inputs`, `talker`), Rejected no_face and several_faces.
    """
    config = config or GenerateConfig()
    picture = image if isinstance(image, np.ndarray) else read_picture(image)
    sound = audio if isinstance(audio, np.ndarray) else read_sound(audio, config.max_seconds, config.seconds)
    if config.seconds is not None:
        sound = sound[: round(config.seconds * SAMPLE_RATE)]
    sound = check_sound(sound, "the sound" if isinstance(audio, np.ndarray) else str(audio), config.max_seconds)
    if out.suffix != ".mp4":
        raise BadInput("wrong_output", f"the video is an mp4 file, got the name {out.name!r}")
    torch.set_num_threads(config.threads)
    talker = checkpoint if isinstance(checkpoint, Talker) else Talker.load(checkpoint, device)
    if not isinstance(image, np.ndarray):
        picture = (crop or crop_face)(picture, talker.size)
    stream = Stream(talker, picture, config)
    from dualforce_model.media import write_video

    whole = np.zeros(sample_of_raw(-(-len(sound) // sample_of_raw(1))), np.float32)
    whole[: len(sound)] = sound
    with publish(out) as temporary:
        frames = write_video(temporary, _all(stream, sound), whole, audio_codec="aac")
    return Generated(out, frames)


def crop_face(picture: np.ndarray, size: int) -> np.ndarray:
    """The one face of a picture, cropped as the clips are. Raises Rejected no_face, several_faces."""
    from dualforce_model.faces import FaceCropConfig, crop_picture

    return crop_picture(picture, FaceCropConfig(size=size))


def _all(stream: Stream, sound: np.ndarray) -> Iterator[np.ndarray]:
    """The stream, fed second by second so that frames are written as they come."""
    for first in range(0, len(sound), SAMPLE_RATE):
        yield from stream.push(sound[first : first + SAMPLE_RATE])
    yield from stream.finish()
