"""Video latents by Wan 2.1's VAE: one causal pass over the whole clip, and back; large pictures in overlapping tiles.

The latents are the posterior's mean, normalised by the mean and deviation of the weights' own config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dualforce_model import timeline, weights
from dualforce_model.config import ConfigError
from dualforce_model.errors import Verdict
from dualforce_model.features import conveyor

if TYPE_CHECKING:
    from dualforce_model.media import Clip

VERSION = "1"
WEIGHTS = "wan_vae"
CHANNELS = 16
CELL = timeline.SPATIAL


@dataclass(frozen=True)
class WanVaeConfig:
    """How the pass is cut; none of it changes the latents beyond rounding, but for tiles.

    chunk      latents at a time (4 frames each); more keep a GPU busier and take more of its memory: 8 at 512 px 22 GiB
    tile       pixels: wider or higher pictures are taken in squares of this side
    overlap    pixels that neighbouring tiles share, over which one fades into the other
    precision  bfloat16 stays within 1 % of float32
    """

    chunk: int = 8
    tile: int = 512
    overlap: int = 128
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"chunk must be >= 1, got {self.chunk}")
        if self.tile % CELL or self.overlap % CELL or not 0 < self.overlap < self.tile:
            raise ConfigError(f"tile and overlap must be multiples of {CELL}, 0 < overlap < tile")


class Tiles:
    """Squares that cover a picture, and how they fade into each other. Sizes in pixels."""

    def __init__(self, height: int, width: int, config: WanVaeConfig):
        if height % CELL or width % CELL:
            raise ValueError(f"sides must be multiples of {CELL}, got {width} x {height}")
        self.height, self.width = height, width
        self.tall, self.wide = min(height, config.tile), min(width, config.tile)
        tops, lefts = _starts(height, self.tall, config.overlap), _starts(width, self.wide, config.overlap)
        self.corners = [(top, left) for top in tops for left in lefts]
        self._overlap = config.overlap

    def cut(self, picture: np.ndarray, unit: int = 1) -> np.ndarray:
        """Tiles [n,...,h,w] of arrays [...,H,W] in units of `unit` pixels."""
        tall, wide = self.tall // unit, self.wide // unit
        return np.stack(
            [picture[..., y // unit : y // unit + tall, x // unit : x // unit + wide] for y, x in self.corners]
        )

    def join(self, tiles: np.ndarray, unit: int = 1) -> np.ndarray:
        """The whole [...,H,W] float32 of tiles [n,...,h,w]; where they overlap, the weights fade linearly."""
        if len(tiles) == 1:
            return tiles[0].astype(np.float32)
        share = np.minimum.outer(
            _ramp(self.tall // unit, self._overlap // unit), _ramp(self.wide // unit, self._overlap // unit)
        )
        out = np.zeros((*tiles.shape[1:-2], self.height // unit, self.width // unit), np.float32)
        total = np.zeros(out.shape[-2:], np.float32)
        for tile, (y, x) in zip(tiles, self.corners, strict=True):
            place = np.s_[..., y // unit : (y + self.tall) // unit, x // unit : (x + self.wide) // unit]
            out[place] += tile * share
            total[place[1:]] += share
        return out / total


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of tiles that cover `length` and overlap by at least `overlap`, on multiples of 8."""
    if length == tile:
        return [0]
    count = 1 - (-(length - tile) // (tile - overlap))
    return [CELL * round(k * (length - tile) / (count - 1) / CELL) for k in range(count)]


def _ramp(length: int, overlap: int) -> np.ndarray:
    """1 in the middle, falling to the ends over `overlap`, never 0."""
    edge = (np.arange(length) + 1) / (overlap + 1)
    return np.minimum(1, np.minimum(edge, edge[::-1])).astype(np.float32)


@cache
def load(precision: Literal["float32", "bfloat16"]) -> Any:
    """The `networks.wan.WanVae` on the picked device, once per process. Raises MissingWeightsError, WeightsError."""
    from dualforce_model.features.networks import wan
    from dualforce_model.features.networks.device import dtype_of, pick

    device = pick()
    return wan.load(weights.locate(WEIGHTS), dtype_of(precision), device, compiled=device.type == "cuda")


def encode(frames: Iterable[np.ndarray], config: WanVaeConfig) -> Iterator[np.ndarray]:
    """Normalised latents [16,F,h,w] float32, chunk by chunk, of pictures [H,W,3] uint8."""
    import torch

    from dualforce_model.features.networks.device import numbers
    from dualforce_model.features.networks.wan import EncoderStream

    stream: EncoderStream | None = None
    running: Any = None  # fetched only when the next chunk is under way, so that the device never waits for us
    for frame in frames:
        if stream is None:
            tiles = Tiles(frame.shape[0], frame.shape[1], config)
            stream = EncoderStream(load(config.precision), config.chunk)
        with numbers(config.precision):
            chunk = stream.push(torch.from_numpy(tiles.cut(frame.transpose(2, 0, 1))))
        if chunk is not None:
            if running is not None:
                yield tiles.join(running.cpu().numpy(), CELL)
            running = chunk
    if stream is None:
        return
    with numbers(config.precision):
        last = stream.finish()
    for chunk in (running, last):
        if chunk is not None:
            yield tiles.join(chunk.cpu().numpy(), CELL)


class Decoder:
    """A stream of latents in, pictures out, `chunk` latents at a time (their first alone)."""

    def __init__(self, config: WanVaeConfig):
        self._config = config
        self._stream: Any = None
        self._tiles: Any = None

    def push(self, latent: np.ndarray) -> np.ndarray:
        """Take a latent [16,h,w]; the pictures uint8 [n,H,W,3] that are ready now (n may be 0)."""
        import torch

        from dualforce_model.features.networks.wan import DecoderStream

        if self._stream is None:
            self._tiles = Tiles(latent.shape[1] * CELL, latent.shape[2] * CELL, self._config)
            self._stream = DecoderStream(load(self._config.precision), self._config.chunk)
        tiles = torch.from_numpy(self._tiles.cut(np.asarray(latent, np.float32), CELL))
        return self._pictures(lambda stream: stream.push(tiles))

    def finish(self) -> np.ndarray:
        """The pictures of the latents that were still waiting for their chunk to fill."""
        if self._stream is None:
            return np.zeros((0, 0, 0, 3), np.uint8)
        return self._pictures(lambda stream: stream.finish())

    def _pictures(self, step: Callable[[Any], Any]) -> np.ndarray:
        from dualforce_model.features.networks.device import numbers

        with numbers(self._config.precision):
            chunk = step(self._stream)
        if chunk is None:
            return np.zeros((0, self._tiles.height, self._tiles.width, 3), np.uint8)
        tiles = chunk.cpu().numpy()
        whole = tiles[0] if len(tiles) == 1 else np.rint(self._tiles.join(tiles)).astype(np.uint8)
        return np.ascontiguousarray(whole.transpose(1, 2, 3, 0))


def decode(latents: Iterable[np.ndarray], config: WanVaeConfig) -> Iterator[np.ndarray]:
    """Pictures [H,W,3] uint8 from latents [16,h,w]: one of the first, four of each other; `config.chunk` at a time."""
    decoder = Decoder(config)
    for latent in latents:
        yield from decoder.push(latent)
    yield from decoder.finish()


def painter(config: WanVaeConfig) -> Callable[[np.ndarray, int], np.ndarray]:
    """For generation: each latent [16,h,w] gives its pictures uint8 [1 or 4,H,W,3] at once."""
    decoder = Decoder(replace(config, chunk=1))
    return lambda latent, _index: decoder.push(latent)


def encode_still(frame: np.ndarray, config: WanVaeConfig) -> np.ndarray:
    """Latent [16,h,w] float16 of one picture [H,W,3] uint8, as latent 0 of a clip."""
    return next(encode([frame], config))[:, 0].astype(np.float16)


def extract(clip: Clip, config: WanVaeConfig) -> dict[str, np.ndarray]:
    """`{"latents": [16,F,h,w] float16}`; up to three last raw frames fill no latent. Pictures are decoded ahead."""
    return next(extract_many([clip], config)).get()


def extract_many(clips: Sequence[Clip], config: WanVaeConfig, readers: int = 1) -> Iterator[conveyor.Result]:
    """The same for many clips, in order, one after the other: a chunk alone fills a GPU."""
    jobs = [clip.frames for clip in clips]
    for clip, frames in zip(clips, conveyor.ahead(jobs, readers, 2 * timeline.STRIDE * config.chunk), strict=True):
        cells = int(clip.info["size"]) // CELL
        latents, done = np.empty((CHANNELS, timeline.latent_count(clip.frame_count), cells, cells), np.float16), 0
        try:
            for chunk in encode(frames, config):
                latents[:, done : done + chunk.shape[1]] = chunk
                done += chunk.shape[1]
        except Verdict as error:
            yield conveyor.Result(error=error)
        else:
            yield conveyor.Result({"latents": latents})
