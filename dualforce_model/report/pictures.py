"""Still pictures of the report: contact sheets of clips with face box and landmarks, thumbnails of sources."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dualforce_model.errors import BadInput
from dualforce_model.media import Clip

THUMB = 176  # px, side of one picture on a sheet
FRAMES = 6  # pictures per clip
BOX, DOTS, GREY = (255, 176, 0), (64, 224, 208), (120, 120, 120)
# MediaPipe mesh outlines that a person reads as a face: oval, lips, eyes, brows, nose.
OUTLINES = (
    (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
     136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109, 10),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185, 61),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78),
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246, 33),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466, 263),
    (70, 63, 105, 66, 107), (300, 293, 334, 296, 336), (168, 6, 197, 195, 5, 4), (98, 97, 2, 326, 327),
)  # fmt: skip


def sheet_of_clip(clip: Clip) -> bytes:
    """JPEG of `FRAMES` evenly spaced frames of a clip in two rows; face box and landmarks where there is a face."""
    wanted = np.unique(np.linspace(0, clip.frame_count - 1, FRAMES).round().astype(int))
    tiles = _tiles(clip, {int(k) for k in wanted})
    return jpeg(_grid(tiles, columns=-(-FRAMES // 2)))


def sheet_of_source(path: Path, seconds: float) -> bytes | None:
    """JPEG strip of four frames spread over a source that gave no clip, or None when none can be decoded."""
    import av

    tiles = []
    try:
        with open(path, "rb") as file, av.open(file, "r") as container:
            for k in range(4):
                container.seek(int((container.start_time or 0) + k / 4 * seconds * av.time_base))
                frame = next(container.decode(video=0))
                tiles.append(_square(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)))
    except (OSError, av.error.FFmpegError, StopIteration, IndexError):
        pass  # what could be decoded is shown; the card says why the file was left out
    return jpeg(_grid(tiles, columns=4)) if tiles else None


def contact_sheet(clips: Iterable[Clip], limit: int = 24) -> bytes:
    """JPEG of the middle frame of each clip with face box and landmarks, its name below; says how many are not shown."""
    from PIL import Image, ImageDraw

    clips = list(clips)
    tiles = []
    for clip in clips[:limit]:
        tile = Image.fromarray(_tiles(clip, {clip.frame_count // 2})[0])
        label = Image.new("RGB", (THUMB, THUMB + 16), "white")
        label.paste(tile)
        ImageDraw.Draw(label).text((3, THUMB + 2), _shortened(clip.clip_id), "black")
        tiles.append(np.asarray(label))
    if len(clips) > limit or not clips:
        text = f"{len(clips) - limit} more not shown" if clips else "no clips"
        more = Image.new("RGB", (THUMB, THUMB + 16), "white")
        ImageDraw.Draw(more).text((12, THUMB // 2), text, "black")
        tiles.append(np.asarray(more))
    return jpeg(_grid(tiles, columns=min(6, len(tiles))))


def jpeg(picture: np.ndarray, quality: int = 78) -> bytes:
    """RGB uint8 [H,W,3] as JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _tiles(clip: Clip, wanted: set[int]) -> list[np.ndarray]:
    """Marked thumbnails of the `wanted` frames; only those are converted. Raises BadInput when the clip is damaged."""
    import av

    arrays, tiles = clip.read_landmarks(), []
    try:
        with open(clip.video, "rb") as file, av.open(file, "r") as container:
            for k, frame in enumerate(container.decode(video=0)):
                if k in wanted:
                    points = arrays["landmarks"][k, :, :2] if arrays["valid"][k] else None
                    tiles.append(_marked(frame.to_ndarray(format="rgb24"), points))
    except (av.error.FFmpegError, IndexError) as error:
        raise BadInput("damaged_clip", f"{clip.video.name}: {error}") from error
    if len(tiles) != len(wanted):
        raise BadInput("damaged_clip", f"{clip.video.name} has fewer frames than its side-car says")
    return tiles


def _marked(frame: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """A thumbnail of `frame`; points: float [478,2] in its pixels."""
    from PIL import Image, ImageDraw

    scale = THUMB / frame.shape[0]
    sharp = Image.fromarray(frame).resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(sharp)
    if points is None:
        draw.line((0, 0, THUMB, THUMB), fill=GREY)
    else:
        for outline in OUTLINES:
            draw.line([(float(x), float(y)) for x, y in points[list(outline)] * scale], fill=DOTS, width=1)
        (left, top), (right, bottom) = points.min(0) * scale, points.max(0) * scale
        draw.rectangle((float(left), float(top), float(right), float(bottom)), outline=BOX)
    return np.asarray(sharp)


def _square(picture: np.ndarray) -> np.ndarray:
    """The whole picture within a THUMB square, grey around it."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (THUMB, THUMB), GREY)
    square.paste(image, ((THUMB - image.width) // 2, (THUMB - image.height) // 2))
    return np.asarray(square)


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one size side by side, `columns` to a row, white where there is none."""
    blank = np.full_like(tiles[0], 255)
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(padded[k : k + columns]) for k in range(0, len(padded), columns)])


def _shortened(name: str, length: int = 25) -> str:
    return name if len(name) <= length else f"{name[: length - 13]}...{name[-10:]}"
