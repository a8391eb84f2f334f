"""VFHQ: one text file per clip, `Clip+<YouTube id>+P<person>+C<clip>+F<first>-<last>.txt`; the video is cut by frame numbers."""

from __future__ import annotations

import re
from pathlib import Path

from dualforce_model.download.listed import Box, Gathering, ListedClip, Manifest, Span, youtube_url
from dualforce_model.download.texts import heads

NAME = re.compile(
    r"Clip\+(?P<key>[A-Za-z0-9_-]{11})\+P(?P<person>\d+)\+C(?P<clip>\d+)\+F(?P<first>\d+)-(?P<last>\d+)\.txt"
)
# "H 1080", "HEIGHT: 1080", "FPS 23.976", "CROP: 583 66 1218 701"
FIELD = re.compile(r"(?P<name>H|HEIGHT|W|WIDTH|FPS|CROP)\b\s*[:=]?\s*(?P<values>[-+\d.,\s]+)", re.IGNORECASE)


def read(path: Path) -> Manifest:
    """Read the clip files of a folder, .zip or .tar archive. Raises BadInput no_list, list_unreadable."""
    out = Gathering("vfhq")
    for file, head in sorted(heads(path, ".txt")):
        parts = NAME.fullmatch(file)
        if parts is None:
            out.problem(file, "bad_name", f"{file}: expected Clip+<YouTube id>+P<n>+C<n>+F<first>-<last>.txt", lost=1)
            continue
        fields = _fields(head)
        first, last, fps = int(parts["first"]), int(parts["last"]), fields.get("FPS", [0.0])[0]
        if last < first or not 1 <= fps <= 1000:
            what = f"FPS is {fps:g}" if last >= first else f"frame {last} comes before {first}"
            out.problem(file, "bad_clip", f"{file}: {what}; it can't be cut", lost=1)
            continue
        key, height = parts["key"], int(fields.get("H", [0.0])[0])
        name = file.removesuffix(".txt").replace("+", "_")
        span = Span(first / fps, (last + 1) / fps, frames=True)  # both frames belong to the clip
        clip = ListedClip(name, f"{key}_P{parts['person']}", span, _box(file, fields, height, out))
        out.add("", key, youtube_url(key), [clip], height)
    return out.manifest()


def _box(file: str, fields: dict[str, list[float]], height: int, out: Gathering) -> Box | None:
    sides = fields.get("CROP", [])
    if len(sides) == 4 and height and sides[0] < sides[2] and sides[1] < sides[3]:
        return Box((sides[0], sides[1], sides[2], sides[3]), "pixels", height)
    out.problem(
        file, "no_crop", f"{file}: no CROP x0 y0 x1 y1 with a height; its face is searched in the whole picture"
    )
    return None


def _fields(head: str) -> dict[str, list[float]]:
    """The lines before the landmarks, by the first letter or whole name: H, W, FPS, CROP."""
    found: dict[str, list[float]] = {}
    for line in head.splitlines():
        if parts := FIELD.match(line.strip()):
            name = parts["name"].upper()
            values = []
            for text in re.split(r"[,\s]+", parts["values"].strip()):
                try:
                    values.append(float(text))
                except ValueError:
                    values = []
                    break
            if values:
                found.setdefault(name if name in ("FPS", "CROP") else name[0], values)
    return found
