"""HDTF: three groups (RD, WDA, WRA) of space-separated text files, with the holes that they really have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dualforce_model.download.listed import Box, Gathering, ListedClip, Manifest, Span, link, seconds_of
from dualforce_model.download.texts import read_text
from dualforce_model.errors import BadInput

GROUPS = ("RD", "WDA", "WRA")
HEIGHTS = range(144, 8641)  # pixels; one entry of the real list is 0


def read(folder: Path) -> Manifest:
    """Read the groups that `folder` holds (`<group>_video_url.txt` and its sisters). Raises BadInput no_list."""
    groups = [group for group in GROUPS if (folder / f"{group}_video_url.txt").is_file()]
    if not groups:
        raise BadInput("no_list", f"{folder} holds none of {', '.join(f'{g}_video_url.txt' for g in GROUPS)}")
    gathering = Gathering("hdtf")
    same: dict[str, str] = {}
    for group in groups:
        _Group(gathering, folder, group, same).read()
    for clips in gathering.clips.values():
        clips[:] = [replace(clip, person=_first(clip.person, same)) for clip in clips]
    return gathering.manifest()


def _first(person: str, same: dict[str, str]) -> str:
    while person in same:
        person = same[person]
    return person


class _Group:
    def __init__(self, out: Gathering, folder: Path, group: str, same: dict[str, str]):
        self.out, self.folder, self.group = out, folder, group
        self.same = same  # person -> the one with the same video under another name

    def read(self) -> None:
        heights, boxes, spans = self._heights(), self._boxes(), self._spans()
        names: set[str] = set()
        known: dict[str, str] = {}
        for where, fields in self._lines("video_url"):
            found = link(fields[1]) if len(fields) == 2 else None
            if found is None:
                self.out.problem(where, "bad_line", f"expected a name and a link, got {' '.join(fields)!r}")
                continue
            name, (key, url) = fields[0], found
            if name in names:
                self.out.problem(where, "name_twice", f"{name} is listed twice; the first counts")
                continue
            names.add(name)
            if key in known:
                self.out.problem(
                    where, "same_video", f"{name} is the same video as {known[key]} ({key}); it is fetched once"
                )
            one, other = (
                _first(self._person(known.setdefault(key, name)), self.same),
                _first(self._person(name), self.same),
            )
            if one != other:
                self.same[other] = one
            height = heights.get(name, 0)
            if name not in spans:
                self.out.problem(where, "no_times", f"{name} has a link but no times; none of its clips can be cut")
            clips = [self._clip(f"{name}_{n}", name, span, boxes, height) for n, span in spans.get(name, {}).items()]
            self.out.add(self.group, key, url, clips, height)
        for name in sorted(spans.keys() - names):
            file = f"{self.group}_annotion_time.txt"
            self.out.problem(f"{file}:{name}", "no_link", f"{name} has times but no link", lost=len(spans[name]))
        for clip in sorted(boxes.keys() - {f"{n}_{i}" for n, of in spans.items() for i in of}):
            self.out.problem(
                f"{self.group}_crop_wh.txt:{clip}", "crop_without_times", f"{clip} has a crop but no times"
            )

    def _clip(self, clip: str, name: str, span: Span, boxes: dict[str, tuple[float, ...]], height: int) -> ListedClip:
        x, w, y, h = boxes.get(clip, (0.0, 0.0, 0.0, 0.0))
        where = f"{self.group}_crop_wh.txt:{clip}"
        if clip not in boxes:
            self.out.problem(where, "no_crop", f"{clip} has no crop line; its face is searched in the whole picture")
        elif not height:
            self.out.problem(
                where, "crop_without_resolution", f"{clip}: the resolution of {name} is not known, so its crop has no scale;"
                " its face is searched in the whole picture"
            )  # fmt: skip
        box = Box((x, y, x + w, y + h), "pixels", height) if clip in boxes and height else None
        return ListedClip(clip, self._person(name), span, box)

    def _person(self, name: str) -> str:
        # BarackObama0 and BarackObama1 are one person; Radio1 and Radio2 are only two broadcasts
        return name if self.group == "RD" else re.sub(r"\d+$", "", name) or name

    def _spans(self) -> dict[str, dict[int, Span]]:
        """Spans by number, which is their place in the line: one that can't be read leaves a hole."""
        spans: dict[str, dict[int, Span]] = {}
        for where, (file, *fields) in self._lines("annotion_time"):
            mine = spans.setdefault(_stem(file), {})
            for number, text in enumerate(fields):
                try:
                    start, end = (seconds_of(part) for part in text.split("-"))
                    if end <= start:
                        raise ValueError(f"{text!r} ends before it begins")
                except ValueError as error:
                    self.out.problem(f"{where}#{number}", "bad_time", f"{file}: {error}", lost=1)
                else:
                    mine[number] = Span(start, end)
        return spans

    def _boxes(self) -> dict[str, tuple[float, ...]]:
        boxes: dict[str, tuple[float, ...]] = {}
        for where, (file, *fields) in self._lines("crop_wh"):
            try:
                x, w, y, h = (float(field) for field in fields)
                if min(x, y) < 0 or min(w, h) < 1:
                    raise ValueError
            except ValueError:
                self.out.problem(where, "bad_crop", f"{file}: expected x w y h, got {' '.join(fields)!r}")
            else:
                boxes[_stem(file)] = (x, w, y, h)
        return boxes

    def _heights(self) -> dict[str, int]:
        heights: dict[str, int] = {}
        for where, (file, *fields) in self._lines("resolution"):
            if len(fields) == 1 and fields[0].isdigit() and int(fields[0]) in HEIGHTS:
                heights[_stem(file)] = int(fields[0])
            else:
                self.out.problem(
                    where, "bad_resolution", f"{file}: expected a height in pixels, got {' '.join(fields)!r}"
                )
        return heights

    def _lines(self, what: str) -> Iterator[tuple[str, list[str]]]:
        file = f"{self.group}_{what}.txt"
        if not (self.folder / file).is_file():
            self.out.problem(
                file, "file_missing", f"{file} is missing; what it says is not known for group {self.group}"
            )
            return
        for number, line in enumerate(read_text(self.folder / file).splitlines(), 1):
            if fields := line.split():
                yield f"{file}:{number}", fields


def _stem(file: str) -> str:
    return file.removesuffix(".mp4")
