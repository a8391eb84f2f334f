"""What the workflow must say about each demo clip, and the truth that was rendered into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualforce_model.store import write_json

NAME = "expected.json"


@dataclass(frozen=True)
class Expected:
    """One demo file: its verdict and its truth.

    file         name in the demo folder
    status       "accepted" | "rejected" | "failed"
    reasons      the reasons that may be given first; empty for an accepted clip
    note         what the clip is for, in words
    sitters      who is seen
    width, height, fps, seconds, variable_fps, rotation   the picture as shown (rotation applied)
    video_start_s   when the first picture is shown, on the file's clock; the sound starts at 0
    av_offset_ms    how much later than the mouth the sound comes
    mouth           true mouth opening 0..1 of each frame k of a 25 fps clip that starts with the first picture
    """

    file: str
    status: str
    reasons: tuple[str, ...]
    note: str
    sitters: tuple[str, ...]
    width: int
    height: int
    fps: float
    seconds: float
    variable_fps: bool
    rotation: int
    video_start_s: float
    av_offset_ms: float
    mouth: tuple[float, ...]


def write(folder: Path, seed: int, clips: Iterable[Expected]) -> None:
    write_json(folder / NAME, {"seed": seed, "clips": [asdict(c) for c in clips]})


def read(folder: Path) -> list[Expected]:
    """The list that lies beside the demo clips in `folder`. Raises FileNotFoundError if there is none."""
    clips: list[dict[str, Any]] = json.loads((folder / NAME).read_text(encoding="utf-8"))["clips"]
    lists = ("reasons", "sitters", "mouth")
    return [Expected(**{**clip, **{name: tuple(clip[name]) for name in lists}}) for clip in clips]


def mismatches(expected: Iterable[Expected], verdicts: Mapping[str, tuple[str, str]]) -> list[str]:
    """One sentence per demo file whose verdict is not the expected one; an empty list means all is as it should be.

    verdicts: file name -> (status, first reason) as the ledger has them.
    """
    wrong = []
    for clip in expected:
        want = clip.status + (f" as {' or '.join(clip.reasons)}" if clip.reasons else "")
        if clip.file not in verdicts:
            wrong.append(f"{clip.file}: expected {want}, but the run says nothing about it")
            continue
        status, reason = verdicts[clip.file]
        if status != clip.status or (clip.reasons and reason not in clip.reasons):
            wrong.append(f"{clip.file}: expected {want}, got {status}{f' as {reason}' if reason else ''}")
    return wrong
