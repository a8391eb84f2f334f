"""What a dataset's list says, in one form for all of them: videos, the clips wanted of each, and what is wrong with the list."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, urlsplit

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Box:
    """A crop of the list: left, top, right, bottom, as shares of the picture or as pixels of a picture `height` high."""

    sides: tuple[float, float, float, float]
    unit: Literal["share", "pixels"]
    height: int = 0  # pixels; of the picture in which the list's own authors measured


@dataclass(frozen=True)
class Span:
    """Seconds [start, end) of a video, on the clock its player shows; or of its frames when `frames` is true.

    A time counts from the beginning of the file, a frame from the first picture; the two differ where sound begins first.
    """

    start: float
    end: float
    frames: bool = False  # the seconds were computed from frame numbers

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class ListedClip:
    """One clip that the list names; without a span it is the whole video, without a box the whole picture."""

    name: str
    person: str  # clips of one person must stay on one side of the split
    span: Span | None = None
    box: Box | None = None


@dataclass(frozen=True)
class ListedVideo:
    """One video to fetch, once, for all its clips. `key` is safe as a file name and unique in its dataset."""

    dataset: str
    group: str  # the list's own division, "" without one
    key: str
    url: str
    clips: tuple[ListedClip, ...]
    height: int = 0  # pixels that the list says it has; 0 = not said

    @property
    def source(self) -> str:
        """Its name in the ledger."""
        return f"{self.dataset}/{self.key}"

    @property
    def last_second(self) -> float:
        """The video is at least that long."""
        return max((clip.span.end for clip in self.clips if clip.span), default=0.0)


@dataclass(frozen=True)
class Problem:
    """Something in a list that can't be used as it stands. `where`: file and line or entry."""

    where: str
    reason: str  # snake_case, begins with `list_`
    message: str
    lost: int = 0  # clips that are lost by it


@dataclass(frozen=True)
class Manifest:
    """A list read whole."""

    dataset: str
    videos: tuple[ListedVideo, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def clips(self) -> int:
        return sum(len(video.clips) for video in self.videos)


@dataclass
class Gathering:
    """Videos while their clips are collected; the same video under two names is one."""

    dataset: str
    videos: dict[str, ListedVideo] = field(default_factory=dict)
    clips: dict[str, list[ListedClip]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, where: str, reason: str, message: str, lost: int = 0) -> None:
        self.problems.append(Problem(where, f"list_{reason}", message, lost))

    def add(self, group: str, key: str, url: str, clips: Iterable[ListedClip], height: int = 0) -> None:
        self.videos.setdefault(key, ListedVideo(self.dataset, group, key, url, (), height))
        self.clips.setdefault(key, []).extend(clips)

    def manifest(self) -> Manifest:
        """Everything in the order of the list. A clip named twice is a problem; its first mention counts."""
        videos = []
        for key, video in self.videos.items():
            kept: dict[str, ListedClip] = {}
            for clip in self.clips[key]:
                if kept.setdefault(clip.name, clip) != clip:
                    self.problem(
                        clip.name, "clip_twice", f"clip {clip.name} of video {key} is listed twice, differently"
                    )
            videos.append(ListedVideo(self.dataset, video.group, key, video.url, tuple(kept.values()), video.height))
        return Manifest(self.dataset, tuple(videos), tuple(self.problems))


def youtube_url(key: str) -> str:
    return f"https://www.youtube.com/watch?v={key}"


def link(url: str) -> tuple[str, str] | None:
    """(key, url) of a link as lists write them, or None when it is none. A YouTube link loses its `&t=` and the like."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("http", "https") or not host:
        return None
    if host == "youtu.be" or host == "youtube.com" or host.endswith(".youtube.com"):
        places = [*parse_qs(parts.query).get("v", []), parts.path.rstrip("/").rpartition("/")[2]]
        key = next((place for place in places if YOUTUBE_ID.fullmatch(place)), None)
        return (key, youtube_url(key)) if key else None
    return safe_key(url), url


def safe_key(name: str) -> str:
    """A file name made of an id: the id itself where it is plain, else readable letters of it and a hash of all."""
    if PLAIN.fullmatch(name):
        return name
    stem = urlsplit(name).path.rstrip("/").rpartition("/")[2].rpartition(".")[0] or "video"
    slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:40].strip("-") or "video"
    return f"{slug}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def seconds_of(text: str) -> float:
    """`ss`, `mm:ss` or `h:mm:ss`, with or without decimals. Raises ValueError."""
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
        raise ValueError(f"{text!r} is no time: expected mm:ss or h:mm:ss")
    total = 0.0
    for part in parts:
        total = total * 60 + float(part)
    return total
