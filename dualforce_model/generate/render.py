"""From files to a file: picture and sound in, mp4 with that sound out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dualforce_model.errors import BadInput
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.drift import Drift, knower
from dualforce_model.generate.inputs import check_sound, read_picture, read_sound
from dualforce_model.generate.motion import read_motion, slots_of
from dualforce_model.generate.origin import Origin, check_picture, check_text, framing_of
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker, device_of
from dualforce_model.generate.text import read_text
from dualforce_model.generate.views import beside, keypoints, with_landmarks
from dualforce_model.model import ModelConfig
from dualforce_model.store import publish, write_json
from dualforce_model.timeline import FPS, SAMPLE_RATE, raw_range, sample_of_raw

if TYPE_CHECKING:
    from dualforce_model.faces import FaceCropConfig

Crop = Callable[[np.ndarray, int], np.ndarray]  # (RGB picture, size) -> RGB [size,size,3]


@dataclass(frozen=True)
class Extras:
    """What may go in beside picture and sound, and come out beside the video.

    motion        file that drives the struct stream: a video, a LivePortrait template, a run's struct_latents
    text          a caption, or a file with its embedding
    side_by_side  the picture left of the video
    overlay       dots where the struct stream sees the face
    drift         measure likeness, sharpness and colour of every ten seconds
    """

    motion: Path | None = None
    text: str | None = None
    side_by_side: bool = False
    overlay: bool = False
    drift: bool = False


@dataclass(frozen=True)
class Generated:
    """What was written. `driven`: frames whose motion was given; `drift`: see `drift.Drift.facts`."""

    path: Path
    frames: int
    driven: int = 0
    drift: dict[str, Any] | None = None

    @property
    def seconds(self) -> float:
        return self.frames / FPS

    def save_drift(self) -> Path:
        """Write the drift report as `<video>.drift.json` beside the video; its path."""
        path = self.path.with_suffix(".drift.json")
        write_json(path, self.drift)
        return path

    def __str__(self) -> str:
        driven = f", driven for {self.driven / FPS:.2f} s" if self.driven else ""
        return f"{self.path}: {self.seconds:.2f} s{driven}"


def generate(
    checkpoint: Path | Talker,
    image: Path | np.ndarray,
    audio: Path | np.ndarray,
    out: Path,
    config: GenerateConfig | None = None,
    crop: Crop | None = None,
    device: str | None = None,
    extras: Extras | None = None,
) -> Generated:
    """Write `out` (mp4, H.264 + AAC): the face of `image` says `audio`.

    image: a picture file, whose face is found and cropped by `crop` (default: as the face crop stage does); or RGB
    uint8 [size,size,3], cropped already. audio: a file with sound, or float [samples] at 16 kHz. The sound is filled up
    with silence to whole frames. Bad input is refused before a weight is read or a GPU touched.
    Raises BadInput (see `inputs`, `origin`, `motion`, `text`; no_device, wrong_output), Rejected no_face and several_faces.
    """
    config, extras = config or GenerateConfig(), extras or Extras()
    picture = image if isinstance(image, np.ndarray) else read_picture(image)
    sound = audio if isinstance(audio, np.ndarray) else read_sound(audio, config.max_seconds, config.seconds)
    if config.seconds is not None:
        sound = sound[: round(config.seconds * SAMPLE_RATE)]
    sound = check_sound(sound, "the sound" if isinstance(audio, np.ndarray) else str(audio), config.max_seconds)
    _check_output(out)
    origin = checkpoint if isinstance(checkpoint, Talker) else Origin.read(checkpoint)
    if extras.overlay:
        _check_overlay(origin)
    if isinstance(origin, Origin):
        origin.check(config, extras.text is not None, extras.motion is not None)
    if not isinstance(image, np.ndarray):
        picture = crop(picture, origin.size) if crop else crop_face(picture, origin.size, framing_of(origin.card))
    check_picture(picture, origin.size)
    where = device_of(device) if isinstance(origin, Origin) else origin.device
    motion = None if extras.motion is None else read_motion(extras.motion, origin.card)
    text = None if extras.text is None else read_text(extras.text)
    check_text(text, _shape(origin).text_dim)
    points = keypoints(origin.card, picture) if extras.overlay else None
    torch.set_num_threads(config.threads)
    talker = origin
    if isinstance(talker, Origin):
        talker = Talker.load(talker, where, config.precision, config.compiled)
    drift = Drift(picture, knower()) if extras.drift else None
    from dualforce_model.media import write_video

    whole = np.zeros(sample_of_raw(-(-len(sound) // sample_of_raw(1))), np.float32)
    whole[: len(sound)] = sound
    with Stream(talker, picture, config, text, motion) as stream, publish(out) as temporary:
        shown = _shown(stream, sound, picture if extras.side_by_side else None, points, drift)
        frames = write_video(temporary, shown, whole, audio_codec="aac")
    known = [] if motion is None else np.flatnonzero(slots_of(motion)[1]).tolist()
    driven = sum(len([raw for raw in raw_range(latent) if raw < frames]) for latent in known)
    return Generated(out, frames, driven, None if drift is None else drift.facts())


def crop_face(picture: np.ndarray, size: int, framing: FaceCropConfig | None = None) -> np.ndarray:
    """The one face of a picture, cropped as the clips are. Raises Rejected no_face, several_faces.

    framing: how the checkpoint's run cropped them (`origin.framing_of`); by default as the face crop does by default.
    """
    from dualforce_model.faces import FaceCropConfig, crop_picture

    return crop_picture(picture, replace(framing or FaceCropConfig(), size=size))


def _check_output(out: Path) -> None:
    """Raises BadInput wrong_output for a video that could not be written when it is made."""
    if out.suffix != ".mp4":
        raise BadInput("wrong_output", f"the video is an mp4 file, got the name {out.name!r}")
    # os.path's questions answer False where Path's raise: in a folder that may not be looked into
    if os.path.isdir(out):
        raise BadInput("wrong_output", f"{out} is a folder; give the video another name")
    there = next(folder for folder in out.absolute().parents if os.path.exists(folder))  # what is missing will be made
    if not os.path.isdir(there):
        raise BadInput("wrong_output", f"the video cannot be {out}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput("wrong_output", f"the video cannot be {out}: nothing may be written into {there}")


def _shape(origin: Origin | Talker) -> ModelConfig:
    return origin.model if isinstance(origin, Origin) else origin.model.config


def _check_overlay(origin: Origin | Talker) -> None:
    if _shape(origin).struct is None:
        raise BadInput("no_landmarks", "there is nothing to overlay: this checkpoint has no struct stream")


def _shown(
    stream: Stream,
    sound: np.ndarray,
    picture: np.ndarray | None,
    points: Callable[[np.ndarray], np.ndarray] | None,
    drift: Drift | None,
) -> Iterator[np.ndarray]:
    """The frames as they go into the file: beside `picture`, with a dot at each of the `points` of the struct latents."""
    for frame in _all(stream, sound):
        if drift is not None:
            drift.see(frame)
        shown = frame
        if points is not None and stream.struct is not None:
            shown = with_landmarks(shown, points(stream.struct))
        yield shown if picture is None else beside(picture, shown)


def _all(stream: Stream, sound: np.ndarray) -> Iterator[np.ndarray]:
    """The stream, fed second by second so that frames are written as they come."""
    for first in range(0, len(sound), SAMPLE_RATE):
        yield from stream.push(sound[first : first + SAMPLE_RATE])
    yield from stream.finish()
