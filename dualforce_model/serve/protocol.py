"""What client and server say to each other. A message is JSON text, or bytes: the picture, sound, a frame.

client  {"type": "start", "rate": 16000, "format": "jpeg", "options": {"seed": 1}}, then the picture's file as bytes
server  {"type": "ready", ...}
client  sound: float32, little-endian, mono, at `rate`, in pieces of at most `most_samples`
server  a frame: number and milliseconds (uint32, little-endian, each), then the JPEG or PNG
client  {"type": "end"}: no more sound
server  {"type": "end", "frames": 250, "seconds": 10.0} after the last frame
server  {"type": "error", "reason": "no_face", "message": "..."} instead of any of these, then it closes
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import soxr
from PIL import Image

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput, Verdict
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.inputs import read_picture
from dualforce_model.serve.config import ServeConfig
from dualforce_model.timeline import FPS, SAMPLE_RATE

PICTURES = ("JPEG", "PNG", "WEBP")  # a browser sends these; more decoders would only be more to attack
RATES = (8_000, 192_000)  # Hz
MOST_TEXT = 10_000  # characters of a JSON message


@dataclass(frozen=True)
class Start:
    """What a client wants: the rate of its sound in Hz, the format of its frames, options of GenerateConfig."""

    rate: int = SAMPLE_RATE
    format: Literal["jpeg", "png"] = "jpeg"
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Start:
        """From the first message. Raises BadInput bad_message."""
        message = read_json(text, "start")
        try:
            start = strict.build(cls, message)
        except ConfigError as error:
            raise BadInput("bad_message", f"start: {error}") from error
        if not RATES[0] <= start.rate <= RATES[1]:
            raise BadInput("bad_message", f"start: rate is {RATES[0]} to {RATES[1]} Hz, got {start.rate}")
        return start

    def generate_config(self, config: ServeConfig) -> GenerateConfig:
        """The server's own with the client's options. Raises BadInput bad_option."""
        if unknown := sorted(self.options.keys() - set(config.options)):
            raise BadInput("bad_option", f"no option {unknown[0]!r}{strict.near_misses(unknown[0], config.options)}")
        try:
            chosen = strict.build(GenerateConfig, dataclasses.asdict(config.generate) | self.options)
        except ConfigError as error:
            raise BadInput("bad_option", str(error)) from error
        if not 0 <= chosen.seed < 2**63:
            raise BadInput("bad_option", "seed is 0 to 2^63 - 1")
        if chosen.steps > config.most_steps:
            raise BadInput(
                "bad_option", f"this server draws with at most {config.most_steps} steps, not {chosen.steps}"
            )
        return chosen


def read_json(text: str, kind: str) -> dict[str, Any]:
    """A message of that type, without its type. Raises BadInput bad_message."""
    if len(text) > MOST_TEXT:
        raise BadInput("bad_message", f"a JSON message has at most {MOST_TEXT} characters, got {len(text)}")
    try:
        message = json.loads(text)
        found = message.pop("type")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise BadInput("bad_message", f'expected {{"type": "{kind}", ...}} as JSON text') from error
    if found != kind:
        raise BadInput("bad_message", f"expected a message of type {kind!r}, got {found!r}")
    return message  # type: ignore[no-any-return]


def picture_of(data: bytes, config: ServeConfig) -> np.ndarray:
    """RGB uint8 [H,W,3] of a picture's file. Raises BadInput picture_too_large, no_picture."""
    if len(data) > config.picture_bytes:
        raise BadInput(
            "picture_too_large",
            f"the picture has {len(data)} bytes, the limit is {config.picture_bytes} (picture_bytes)",
        )
    try:
        with Image.open(io.BytesIO(data), formats=PICTURES) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput("no_picture", f"this is no {', '.join(PICTURES)} picture that can be read") from error
    if width * height > config.picture_pixels:
        raise BadInput(
            "picture_too_large",
            f"the picture has {width} x {height} pixels, the limit is {config.picture_pixels} (picture_pixels)",
        )
    return read_picture(io.BytesIO(data))


class Sound:
    """Messages of one client to samples at 16 kHz."""

    def __init__(self, rate: int, config: ServeConfig):
        self._rate, self._config, self._taken = rate, config, 0
        self._resample = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32") if rate != SAMPLE_RATE else None

    def take(self, message: bytes) -> np.ndarray:
        """float32 [n] at 16 kHz. Raises BadInput bad_audio, piece_too_long, too_long."""
        if len(message) % 4:
            raise BadInput("bad_audio", f"sound is 4 bytes per sample (float32), got {len(message)} bytes")
        samples = np.frombuffer(message, "<f4").astype(np.float32)
        if len(samples) > self.most_samples:
            raise BadInput(
                "piece_too_long", f"send sound in pieces of at most {self.most_samples} samples, got {len(samples)}"
            )
        if not np.isfinite(samples).all():
            raise BadInput("bad_audio", "the sound holds values that are not finite")
        self._taken += len(samples)
        if self._taken > self._config.generate.max_seconds * self._rate:
            raise BadInput("too_long", f"a session takes at most {self._config.generate.max_seconds:g} s of sound")
        return samples if self._resample is None else self._resample.resample_chunk(samples)

    def rest(self) -> np.ndarray:
        """What the resampler still holds, float32 [n]."""
        if self._resample is None:
            return np.zeros(0, np.float32)
        return self._resample.resample_chunk(np.zeros(0, np.float32), last=True)

    @property
    def most_samples(self) -> int:
        """In one message: half the queue, which so has room for the next piece while the model takes one."""
        return int(self._config.queue_seconds * self._rate) // 2


def frame_message(index: int, frame: np.ndarray, kind: str, quality: int) -> bytes:
    """Frame number `index` (uint8 [H,W,3]) as it is sent; the milliseconds are when it is shown."""
    out = io.BytesIO()
    out.write(struct.pack("<II", index, index * 1000 // FPS))
    Image.fromarray(frame).save(out, kind, quality=quality, compress_level=1)
    return out.getvalue()


def error_message(error: Verdict) -> dict[str, str]:
    """The one form of every refusal, over the socket and over HTTP."""
    return {"type": "error", "reason": error.reason, "message": str(error)}
