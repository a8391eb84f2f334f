"""The block-DCT video codec: Wan's latent geometry from a fixed linear transform, so no weights are needed.

Geometry: 16 channels, 8x down in space, 4x in time; latent 0 is raw frame 0 alone, latent j >= 1 is frames 4j-3 .. 4j.
Encoder: the orthonormal DCT-II of a 4x8x8 block in time, height and width, times an orthonormal colour transform. 16
    of its 768 coefficients are kept (`CHANNELS`), centred and scaled to about unit variance. Latent 0 is the block of
    frame 0 four times over, so it has the others' statistics but for the temporal frequencies, which are zero. Blocks
    don't see each other: the latents of a clip's beginning are the beginning of its latents.
Decoder: the kept coefficients are returned exactly, and the dropped ones are *predicted* from the kept ones of the 3x3
    cells around: brightness by linear least squares under a fixed prior of what pictures look like (`_prediction`),
    the colours' change in time from that of brightness (`_slope`). That removes the block edges and adds 1 to 2 dB.
    It looks at one latent only: streams decode as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np

from dualforce_model import timeline

VERSION = "1"

CELL, STRIDE = timeline.SPATIAL, timeline.STRIDE

# Orthonormal colour axes: brightness, red against blue, green against both.
COLOUR = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])

# The 16 coefficients (colour axis; frequency in time, height, width), chosen greedily for the decoded quality of
# talking heads; then what to subtract and divide by, mean and standard deviation over the tests' good clips, cropped.
CHANNELS = (
    (0, 0, 0, 0),
    (0, 0, 0, 1),
    (0, 0, 1, 0),
    (0, 0, 0, 2),
    (0, 0, 1, 1),
    (0, 0, 2, 0),
    (0, 0, 1, 2),
    (0, 1, 0, 0),
    (0, 1, 0, 1),
    (0, 1, 1, 0),
    (0, 2, 0, 0),
    (0, 2, 1, 0),
    (0, 3, 0, 0),
    (0, 3, 1, 0),
    (1, 0, 0, 0),
    (2, 0, 0, 0),
)
MEAN = np.array([3200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 270, -100], np.float32)
STD = np.array([1540, 175, 155, 58, 54, 56, 29, 115, 42, 48, 51, 30, 30, 21, 370, 120], np.float32)

CORRELATION_PX = 30.0  # the prior: brightness (and each colour axis) correlates as exp(-distance / 30 px)


def _dct(n: int) -> np.ndarray:
    """Orthonormal DCT-II matrix [n,n]: row k is frequency k."""
    k, x = np.arange(n)[:, None], np.arange(n)
    return np.cos(np.pi * k * (2 * x + 1) / (2 * n)) * np.where(k == 0, np.sqrt(1 / n), np.sqrt(2 / n))


_TIME, _SPACE = _dct(STRIDE), _dct(CELL)
_WIDEST = 1 + max(max(v, u) for _, _, v, u in CHANNELS)  # spatial frequencies per axis that are kept at all

# One row of 8 RGB pixels to the wanted horizontal frequencies of brightness, then the two colour means: [24, columns].
_ACROSS = np.concatenate(
    [
        np.einsum("ux,c->xcu", _SPACE[:_WIDEST], COLOUR[0]).reshape(3 * CELL, _WIDEST),
        np.einsum("x,ac->xca", _SPACE[0], COLOUR[1:]).reshape(3 * CELL, 2),
    ],
    axis=1,
).astype(np.float32)
_DOWN = _SPACE[:_WIDEST].astype(np.float32)
_COLUMN = [u if colour == 0 else _WIDEST + colour - 1 for colour, _, _, u in CHANNELS]


def check_size(height: int, width: int) -> None:
    """Raises ValueError for pictures that are not whole cells."""
    if height % CELL or width % CELL or not height or not width:
        raise ValueError(f"the codec needs sides that are multiples of {CELL}, got a picture of {width} x {height}")


def _spatial(frames: np.ndarray) -> np.ndarray:
    """Spatial coefficients [vertical frequency, column of _ACROSS, n, h, w] float32 of frames [n,H,W,3] uint8."""
    n, height, width, _ = frames.shape
    check_size(height, width)
    h, w = height // CELL, width // CELL
    across = frames.reshape(-1, 3 * CELL).astype(np.float32) @ _ACROSS
    down = _DOWN @ across.reshape(n * h, CELL, -1)  # [n*h, frequency, w*columns]
    return down.reshape(n, h, _WIDEST, w, -1).transpose(2, 4, 0, 1, 3)


def transform(frames: np.ndarray) -> np.ndarray:
    """The kept coefficients [16,h,w] float32 of four pictures [4,H,W,3] uint8, or of one [1,H,W,3] shown four times."""
    spatial = _spatial(frames)
    # one row per frequency; of a picture that stands still, only the mean is left
    time = _TIME.astype(np.float32) if len(frames) == STRIDE else np.array([[STRIDE**0.5], [0], [0], [0]], np.float32)
    return np.stack([np.tensordot(time[t], spatial[v, _COLUMN[c]], 1) for c, (_, t, v, _) in enumerate(CHANNELS)])


def encode_still(frame: np.ndarray) -> np.ndarray:
    """Latent [16,h,w] float16 of one picture [H,W,3] uint8, as latent 0 of a clip. Raises ValueError for its size."""
    return _normalised(transform(frame[None]))


def encode_block(frames: np.ndarray) -> np.ndarray:
    """Latent [16,h,w] float16 of four successive pictures [4,H,W,3] uint8: any latent but 0."""
    return _normalised(transform(frames))


def encode_stream(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Latents [16,h,w] float16 one by one from pictures [H,W,3] uint8; up to three last pictures fill no latent."""
    block: list[np.ndarray] = []
    for index, frame in enumerate(frames):
        if index == 0:
            yield encode_still(frame)
            continue
        block.append(frame)
        if len(block) == STRIDE:
            yield encode_block(np.stack(block))
            block.clear()


def encode(frames: np.ndarray) -> np.ndarray:
    """Latents [16,F,h,w] float16 of a clip's pictures [T,H,W,3] uint8."""
    return np.stack(list(encode_stream(frames)), axis=1)


def _normalised(coefficients: np.ndarray) -> np.ndarray:
    return ((coefficients - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float16)


@cache
def _prediction(kept: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Decoder [9*k, 64]: from the `kept` (vertical, horizontal) coefficients of 3x3 cells to the middle one's pixels.

    Conditional mean of a Gaussian picture with correlation exp(-distance / CORRELATION_PX). The kept coefficients of
    the middle cell come back exactly; only the space orthogonal to them is predicted.
    """
    side = np.arange(3 * CELL)
    y, x = (grid.reshape(-1) for grid in np.meshgrid(side, side, indexing="ij"))
    covariance = np.exp(-np.hypot(y[:, None] - y, x[:, None] - x) / CORRELATION_PX)
    atoms = np.zeros((3, 3, len(kept), 3 * CELL, 3 * CELL))
    for row in range(3):
        for column in range(3):
            for k, (v, u) in enumerate(kept):
                cell = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
                atoms[row, column, k][cell] = np.outer(_SPACE[v], _SPACE[u])
    atoms = atoms.reshape(9 * len(kept), -1)
    known = atoms @ covariance @ atoms.T
    known += 1e-4 * np.trace(known) / len(known) * np.eye(len(known))  # pictures have noise; also steadies the inverse
    middle = ((y // CELL == 1) & (x // CELL == 1)).nonzero()[0]
    own = atoms.reshape(9, len(kept), -1)[4][:, middle]  # orthonormal rows, [k,64]
    guess = np.linalg.solve(known, atoms @ covariance[:, middle])
    guess -= guess @ own.T @ own
    guess.reshape(9, len(kept), -1)[4] += own
    return guess.astype(np.float32)


def _around(coefficients: np.ndarray, kept: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Kept spatial coefficients [k,h,w] of the 3x3 cells around each cell: [9*k, h*w], what `_prediction` takes."""
    k, h, w = coefficients.shape
    # beyond the border stands the mirrored picture: the same cells with odd frequencies turned round
    down = np.array([(-1.0) ** v for v, _ in kept], np.float32)[:, None, None]
    across = np.array([(-1.0) ** u for _, u in kept], np.float32)[:, None, None]
    tall = np.concatenate([coefficients[:, :1] * down, coefficients, coefficients[:, -1:] * down], axis=1)
    wide = np.concatenate([tall[:, :, :1] * across, tall, tall[:, :, -1:] * across], axis=2)
    shifted = [wide[:, row : row + h, column : column + w] for row in range(3) for column in range(3)]
    return np.concatenate(shifted).reshape(9 * k, h * w)


def _slope(light: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """How much a colour axis changes with brightness around each cell [h,w]: a regression of cell means, shrunk.

    What moves takes its colour along, so the colour's unkept change in time is this times the change of brightness.
    """

    def around(values: np.ndarray) -> np.ndarray:
        h, w = values.shape
        wide = np.pad(values, 1, mode="edge")
        shifted = [wide[row : row + h, column : column + w] for row in range(3) for column in range(3)]
        return np.mean(shifted, axis=0, dtype=np.float32)

    covariance = around(light * tint) - around(light) * around(tint)
    variance = around(light * light) - around(light) ** 2
    return np.float32(0.8) * covariance / (variance + np.float32(1e4))  # 1e4: differences of about 4 grey levels


def decode_block(latent: np.ndarray, still: bool = False) -> np.ndarray:
    """Pictures [4,H,W,3] uint8 of one latent [16,h,w], or [1,H,W,3] when it is a `still` (latent 0, a reference)."""
    latent = np.asarray(latent, np.float32)
    if latent.ndim != 3 or latent.shape[0] != len(CHANNELS):
        raise ValueError(f"a latent is [{len(CHANNELS)},h,w], got {list(latent.shape)}")
    coefficients = latent * STD[:, None, None] + MEAN[:, None, None]
    around = {}  # (colour axis, frequency in time) -> what predicts its plane, and from what
    for colour, t in {channel[:2] for channel in CHANNELS if not (still and channel[1])}:
        mine = [i for i, channel in enumerate(CHANNELS) if channel[:2] == (colour, t)]
        kept = tuple(CHANNELS[i][2:] for i in mine)
        around[colour, t] = _prediction(kept).T, _around(coefficients[mine], kept)
    mean = [coefficients[CHANNELS.index((colour, 0, 0, 0))] for colour in range(3)]
    slopes = [_around(CELL * _slope(mean[0], mean[colour])[None], ((0, 0),)) for colour in (1, 2)]
    times = 1 if still else STRIDE
    mix = np.einsum("tf,cr->frct", _TIME[:times, :times], COLOUR).reshape(3 * times, 3 * times).astype(np.float32)
    _, h, w = latent.shape
    out = np.empty((times, h, CELL, w, CELL, 3), np.uint8)
    planes = np.empty((3, times, CELL * CELL, w), np.float32)  # colour axis, frequency in time, pixel, cell
    for row in range(h):  # one row of cells at a time stays in the processor's cache
        cells = slice(row * w, (row + 1) * w)
        for plane, (weights, values) in around.items():
            np.matmul(weights, values[:, cells], out=planes[plane])
        for colour, slope in enumerate(slopes, 1):
            planes[colour, 1:] = (_prediction(((0, 0),)).T @ slope[:, cells]) * planes[0, 1:]
        pixels = mix @ planes.reshape(3 * times, -1)
        np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels)
        blocks = pixels.astype(np.uint8).reshape(times, 3, CELL, CELL, w)
        out[:, row] = blocks.transpose(0, 2, 4, 3, 1)
    return out.reshape(times, h * CELL, w * CELL, 3)


def decode_stream(latents: Iterable[np.ndarray], first: int = 0) -> Iterator[np.ndarray]:
    """Pictures [H,W,3] uint8 one by one from latents [16,h,w]; `first` is the first one's index in its clip."""
    for index, latent in enumerate(latents, first):
        yield from decode_block(latent, still=index == 0)


def decode(latents: np.ndarray, first: int = 0) -> np.ndarray:
    """Pictures [T,H,W,3] uint8 of latents [16,F,h,w], T = 4F-3 when they start with latent 0, else 4F."""
    return np.stack(list(decode_stream(np.moveaxis(np.asarray(latents), 1, 0), first)))
