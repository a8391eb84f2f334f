"""Picture and sound as people have them: any format, any size, any rate; what can't be used is refused here."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.timeline import SAMPLE_RATE

SILENCE = 1e-4  # of full scale (-80 dB): no speech lies below


def read_picture(path: Path | BinaryIO) -> np.ndarray:
    """RGB uint8 [H,W,3] of a picture file, turned as its camera says. Raises BadInput no_picture."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which convert() would not scale but clip
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 256).astype(np.uint8))
            return np.asarray(upright.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        where = path if isinstance(path, Path) else "these bytes"
        raise BadInput("no_picture", f"cannot read a picture from {where}: {error}") from error


def read_sound(path: Path, max_seconds: float, seconds: float | None = None) -> np.ndarray:
    """float32 [samples] at 16 kHz, mono, of the first sound track of a file, or its first `seconds`. Raises BadInput.

    Reasons: no_sound (no such file, no track, undecodable), too_long.
    """
    import av
    from av.error import FFmpegError

    pieces: list[np.ndarray] = []
    samples = 0
    try:
        with open(path, "rb") as file, av.open(file, "r") as container:
            declared = (container.duration or 0) / av.time_base
            if seconds is None and declared > max_seconds + 1:  # a header need not be exact; the count below is
                raise _too_long(path, declared, max_seconds)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            for frame in container.decode(container.streams.audio[0]):
                for chunk in resampler.resample(frame):
                    pieces.append(chunk.to_ndarray().reshape(-1))
                    samples += len(pieces[-1])
                if seconds is not None and samples >= seconds * SAMPLE_RATE:
                    break
                if samples > max_seconds * SAMPLE_RATE:
                    raise _too_long(path, samples / SAMPLE_RATE, max_seconds)
            pieces += [chunk.to_ndarray().reshape(-1) for chunk in resampler.resample(None)]
    except (OSError, FFmpegError, IndexError) as error:
        raise BadInput("no_sound", f"cannot read sound from {path}: {error}") from error
    sound = np.clip(np.concatenate(pieces), -1, 1) if pieces else np.zeros(0, np.float32)  # as in the clips
    return sound if seconds is None else sound[: round(seconds * SAMPLE_RATE)]


def check_sound(samples: np.ndarray, name: str, max_seconds: float) -> np.ndarray:
    """The samples as float32. Raises BadInput: empty_audio, silent_audio, bad_audio, too_long."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise BadInput(
            "bad_audio", f"{name}: expected float samples [n] at 16 kHz, got {samples.dtype} {samples.shape}"
        )
    if not len(samples):
        raise BadInput("empty_audio", f"{name} has no samples; there is nothing to say")
    if not np.isfinite(samples).all():
        raise BadInput("bad_audio", f"{name} holds values that are not finite")
    if len(samples) > max_seconds * SAMPLE_RATE:
        raise _too_long(name, len(samples) / SAMPLE_RATE, max_seconds)
    if np.abs(samples).max() < SILENCE:
        raise BadInput("silent_audio", f"{name} is silent throughout (below {SILENCE:g} of full scale)")
    return samples.astype(np.float32)


def _too_long(name: Path | str, seconds: float, limit: float) -> BadInput:
    return BadInput(
        "too_long",
        f"{name} has {seconds / 60:.1f} min of sound or more, the limit is {limit / 60:.4g} min: "
        f"set max_seconds higher (now {limit:g}), or use its beginning with seconds",
    )
