"""Films of the report: small H.264 + AAC copies that play inside the page, and the codec's round trip beside them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from dualforce_model.errors import BadInput
from dualforce_model.media import Clip
from dualforce_model.report import words
from dualforce_model.report.funnel import Journey
from dualforce_model.report.pictures import data_uri, jpeg
from dualforce_model.store import read_provenance, read_tensors
from dualforce_model.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

SIDE = 256  # px of an embedded film
SECONDS = 6  # of each film at most


def comparisons(run_dir: Path, accepted: Sequence[Journey], most: int) -> tuple[list[dict[str, Any]], str]:
    """Groups of films to be seen side by side, and a sentence on what is shown.

    First generated clips beside the recorded clip that they were made after, then accepted clips beside their decoded
    latents, up to `most` together.
    """
    samples = sorted((run_dir / "samples").glob("*.mp4"))
    recorded = [way.clip_id for way in accepted]
    groups, told = [], set()
    for path in samples[:most]:
        facts = _facts_beside(path)
        clip_id = str(facts.get("clip_id") or "")
        film = _shown("generated clip", finished, path, "generated clip")
        if facts.get("split"):
            said = f"from the first picture and the sound of this clip ({words.visible(facts['split'])} split)"
            film["note"] = "; ".join(filter(None, [said, film["note"], _drift(facts.get("drift"))]))
        films = _recorded(run_dir, clip_id) if clip_id in recorded else []
        told |= {clip_id} & set(recorded)
        groups.append({"title": f"Generated: {words.visible(path.stem)}", "films": [*films, film]})
    others = [clip_id for clip_id in recorded if clip_id not in told][: most - len(groups)]
    groups += [{"title": words.visible(clip_id), "films": _recorded(run_dir, clip_id)} for clip_id in others]
    note = (
        f"{min(most, len(samples))} of {len(samples)} generated clips (all are in samples/) and "
        f"{len(told) + len(others)} of {len(recorded)} accepted clips (all are in clips/ and features/video_latents/)."
    )
    return groups, note


def _drift(found: Any) -> str:
    """What became of the face, from the numbers beside a generated clip: its first ten seconds, and its last."""
    shown = {
        "identity": ("identity_similarity", "{:.3f}"),
        "likeness to the picture": ("reference_similarity", "{:.3f}"),
        "sharpness": ("sharpness", "{:.0f}"),
        "mean colour": ("colour", "{0[0]:.0f}/{0[1]:.0f}/{0[2]:.0f}"),
    }
    try:
        rows = found["rows"]
        ends = rows[:1] if len(rows) < 2 else [rows[0], rows[-1]]
        known = {what: [row[name] for row in ends] for what, (name, _) in shown.items()}
        return ", ".join(
            f"{what} {' → '.join(map(shown[what][1].format, values))}"
            for what, values in known.items()
            if values and None not in values
        )
    except (TypeError, KeyError, IndexError, ValueError):
        return ""


def _recorded(run_dir: Path, clip_id: str) -> list[dict[str, Any]]:
    clip, latents = Clip(run_dir / "clips", clip_id), run_dir / "features" / "video_latents" / f"{clip_id}.safetensors"
    decoded = "decoded from its latents"
    if not latents.is_file():
        return [_shown("original clip", original, clip), _nothing(decoded, "The video latents have not been made.")]
    return [_shown("original clip", original, clip), _shown(decoded, round_trip, clip, latents)]


def _shown(title: str, make: Callable[..., dict[str, Any]], *what: Any) -> dict[str, Any]:
    """The film, or in its place what is wrong: a report must come out of an unfinished or damaged run folder too."""
    try:
        return make(*what)
    except (OSError, BadInput, SafetensorError, KeyError, ValueError) as error:
        return _nothing(title, f"can't be shown: {words.visible(error)}")


def _facts_beside(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def original(clip: Clip) -> dict[str, Any]:
    """The clip itself, as it went into training."""
    sound = clip.audio() if clip.has_audio else None
    return _film("original clip", clip.frames(), sound, clip.frame_count)


def round_trip(clip: Clip, latents: Path) -> dict[str, Any]:
    """The clip through the video codec and back. Raises BadInput or FileNotFoundError when there are no latents."""
    backend = read_provenance(latents)["backend"]
    title = f"decoded from its latents ({backend})"
    if backend != "block_dct":
        return _nothing(title, f"The {backend} decoder needs its weights; it is not run for a report.")
    from dualforce_model.features import codec

    stored = np.moveaxis(read_tensors(latents)["latents"], 1, 0)  # [F,16,h,w]
    sound = clip.audio() if clip.has_audio else None
    errors: list[float] = []

    def decoded() -> Iterator[np.ndarray]:
        for mine, theirs in zip(codec.decode_stream(stored), clip.frames(), strict=False):
            errors.append(float(np.mean((mine.astype(np.float32) - theirs) ** 2)))
            yield mine

    film = _film(title, decoded(), sound, clip.frame_count)
    film["psnr"] = 10 * math.log10(255**2 / max(sum(errors) / len(errors), 1e-9))
    return film


def finished(path: Path, title: str) -> dict[str, Any]:
    """A film that is already a file, such as a generated clip; made small for the page."""
    import av

    with open(path, "rb") as file, av.open(file, "r") as container:
        rate = float(container.streams.video[0].average_rate or FPS)
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), int(SECONDS * rate))]
        count = container.streams.video[0].frames or len(frames)
        sound = None
        if container.streams.audio:
            container.seek(0)
            resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE)
            pieces = [r.to_ndarray()[0] for f in container.decode(audio=0) for r in resampler.resample(f)]
            pieces += [r.to_ndarray()[0] for r in resampler.resample(None)]
            sound = np.concatenate(pieces) if pieces else None
    return _film(title, frames, sound, count)


def _nothing(title: str, note: str) -> dict[str, Any]:
    return {"title": title, "video": "", "note": note, "psnr": None}


def _film(title: str, frames: Iterable[np.ndarray], sound: np.ndarray | None, count: int) -> dict[str, Any]:
    most = SECONDS * FPS
    cut = sound[: most * SAMPLES_PER_FRAME] if sound is not None else None
    shortened = islice(frames, most)
    first = next(shortened, None)
    if first is None:
        raise ValueError("it has no frames")
    data, shown = _encode(chain([first], shortened), cut)
    note = f"the first {SECONDS} s of {count / FPS:.1f} s" if count > most else ""
    facts = {"seconds": shown / FPS, "note": note, "sound": cut is not None, "psnr": None}
    poster = data_uri(jpeg(_small(first)), "image/jpeg")  # phones show nothing of a film before it is played
    return {"title": title, "video": data_uri(data, "video/mp4"), "poster": poster, **facts}


def _encode(frames: Iterable[np.ndarray], sound: np.ndarray | None) -> tuple[bytes, int]:
    """Bytes of an mp4 that every browser plays, and its frame count; far smaller than what `media` writes to keep."""
    import av
    from av.video.reformatter import VideoReformatter

    buffer, count, scaler = io.BytesIO(), 0, VideoReformatter()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as film:
        video = film.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "27", "threads": "1"})
        video.pix_fmt = "yuv420p"
        if sound is not None:
            track = film.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"flags": "+bitexact"})
            track.bit_rate = 48_000
            block = av.AudioFrame.from_ndarray(sound.astype(np.float32)[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        for count, frame in enumerate(frames, 1):
            if count == 1:
                video.width, video.height = _size(frame)
            picture = scaler.reformat(
                av.VideoFrame.from_ndarray(frame, "rgb24"), video.width, video.height, "yuv420p", interpolation="AREA"
            )
            picture.pts, picture.time_base = count - 1, Fraction(1, FPS)
            film.mux(video.encode(picture))
        film.mux(video.encode(None))
        if sound is not None:
            film.mux(track.encode(block))
            film.mux(track.encode(None))
    return buffer.getvalue(), count


def _small(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize(_size(frame), Image.Resampling.BOX))


def _size(frame: np.ndarray) -> tuple[int, int]:
    """Even width and height of a film whose frames are [H,W,3], its longer side at most SIDE."""
    scale = min(1.0, SIDE / max(frame.shape[:2]))
    width, height = (max(2, round(side * scale / 2) * 2) for side in (frame.shape[1], frame.shape[0]))
    return width, height
