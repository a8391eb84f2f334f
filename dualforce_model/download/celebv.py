"""CelebV-HQ and CelebV-Text: one JSON file whose clips name a YouTube id, seconds and a box in shares of the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dualforce_model.download.listed import YOUTUBE_ID, Box, Gathering, ListedClip, Manifest, Span, youtube_url
from dualforce_model.download.texts import read_text
from dualforce_model.errors import BadInput

WIDER = 0.02  # of the picture, on each side: what the official tool adds before it squares the box


def read(path: Path, dataset: str = "celebv_hq") -> Manifest:
    """Read the list; CelebV-HQ has its clips under `clips`, CelebV-Text at the top. Raises BadInput list_unreadable."""
    if path.is_dir():
        found = sorted(path.glob("*.json"))
        if len(found) != 1:
            raise BadInput("no_list", f"{path} holds {len(found)} .json files; name the one that is the list")
        (path,) = found
    try:
        whole = json.loads(read_text(path))
    except ValueError as error:
        raise BadInput("list_unreadable", f"{path} is not JSON: {error}") from error
    clips = whole.get("clips", whole) if isinstance(whole, dict) else None
    if not isinstance(clips, dict):
        raise BadInput("list_unreadable", f"{path}: expected an object of clips, got {type(clips).__name__}")
    out = Gathering(dataset)
    seen: dict[tuple[str, Span, Box | None], str] = {}
    for name, entry in clips.items():
        if name == "meta_info":
            continue
        try:
            key = _key(entry)
            span = Span(_number(entry, "duration", "start_sec"), _number(entry, "duration", "end_sec"))
            if not 0 <= span.start < span.end:
                raise ValueError(f"its time {span.start}..{span.end} s is no span")
        except (KeyError, TypeError, ValueError) as error:
            out.problem(name, "bad_clip", f"clip {name}: {_words(error)}", lost=1)
            continue
        box = _box(name, entry, out)
        clip = ListedClip(name.removesuffix(".mp4"), key, span, box)
        twin = seen.setdefault((key, span, box), clip.name)
        if twin != clip.name:  # CelebV-Text gives one piece of video several texts, each under a name of its own
            out.problem(name, "same_clip", f"{clip.name} is the same piece of video as {twin}; it is cut once")
            continue
        out.add("", key, youtube_url(key), [clip])
    return out.manifest()


def _key(entry: dict[str, Any]) -> str:
    key = entry["ytb_id"]
    if not isinstance(key, str) or not YOUTUBE_ID.fullmatch(key):
        raise ValueError(f"{key!r} is no YouTube id")
    return key


def _box(name: str, entry: dict[str, Any], out: Gathering) -> Box | None:
    try:
        top, bottom, left, right = (_number(entry, "bbox", side) for side in ("top", "bottom", "left", "right"))
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(f"its box {left}..{right} x {top}..{bottom} is none in 0..1")
    except (KeyError, TypeError, ValueError) as error:
        out.problem(name, "no_crop", f"clip {name}: {_words(error)}; its face is searched in the whole picture")
        return None
    sides = (left - WIDER, top - WIDER, right + WIDER, bottom + WIDER)
    left, top, right, bottom = (round(min(1.0, max(0.0, side)), 6) for side in sides)
    return Box((left, top, right, bottom), "share")


def _number(entry: dict[str, Any], room: str, name: str) -> float:
    value = float(entry[room][name])
    if not math.isfinite(value):
        raise ValueError(f"{room}.{name} is {value}")
    return value


def _words(error: Exception) -> str:
    return f"it has no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
