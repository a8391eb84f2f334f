"""What a run folder says about itself: counts per stage, where every clip stands, whether its files are still whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dualforce_model.report.funnel import Story, stage_table
from dualforce_model.store import digest_file, ledger


class Damage(NamedTuple):
    """A file that is not what its stage recorded; `what` is `missing`, `changed` or `unreadable: …`."""

    stage: str
    file: str
    what: str


def counts(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Per stage: accepted, rejected, failed, reused, seconds, and the reasons with their numbers."""
    return _counts(Story(run_dir))


def _counts(story: Story) -> dict[str, dict[str, Any]]:
    return {row.pop("stage"): {**row, "reasons": dict(row["reasons"])} for row in stage_table(story)}


def status(run_dir: Path) -> dict[str, Any]:
    """`stages` (see `counts`) and `clips` (per clip, or source without one: what decided)."""
    story = Story(run_dir)
    messages = {stage: story.messages(stage) for stage in story.ledgers}
    clips = []
    for way in story.ways:
        stage = way.last
        status, reason = way.steps[stage]
        said = messages[stage]
        message = said.get((way.source, way.clip_id)) or said.get((way.source, "")) or ""
        clip = {"clip_id": way.clip_id, "source": way.source, "stage": stage, "status": status, "reason": reason}
        clips.append(clip | {"message": message})
    return {"run_dir": str(run_dir), "stages": _counts(story), "clips": clips}


def clip(run_dir: Path, clip_id: str) -> dict[str, dict[str, Any]]:
    """Everything that the ledgers hold on one clip: its row by stage, scores and facts taken apart. Empty if unknown."""
    rows = ledger.of_clip(run_dir, clip_id)
    return {
        stage: {
            **{name: value for name, value in row.items() if name in ledger.COLUMNS},
            **{name: json.loads(row[name]) for name in ("files", "facts", "mtimes")},
            "scores": ledger.scores(row),
        }
        for stage, row in rows.items()
    }


def reasons(run_dir: Path, stage: str) -> Counter[tuple[str, str]]:
    """How many rows of a stage have each (status, reason)."""
    rows = ledger.table(run_dir, stage, ("status", "reason"))
    return Counter(zip(rows["status"].to_pylist(), rows["reason"].to_pylist(), strict=True))


def verdicts(run_dir: Path) -> dict[str, tuple[str, str]]:
    """Per source: (status, reason); accepted when at least one of its clips is."""
    found: dict[str, tuple[str, str]] = {}
    for way in Story(run_dir).ways:
        if found.get(way.source, ("",))[0] != "accepted":
            found[way.source] = (way.status, way.reason)
    return found


def damaged(run_dir: Path) -> Iterator[Damage]:
    """Read every byte of every file that the ledgers name; yields what is missing or is not what was recorded.

    This finds what size and time of change cannot show: bytes that rotted on the disk. A damaged file's time is moved
    by a nanosecond, so that the next run reads it, sees the same and makes it anew.
    """
    with ThreadPoolExecutor() as threads:  # hashing and reading let other threads go on
        for stage in ledger.stages(run_dir):
            rows = ledger.table(run_dir, stage, ("files",))["files"].to_pylist()
            # clips of one caption name the same file
            files = list(dict.fromkeys((stage, *file) for some in rows for file in json.loads(some)))
            yield from filter(None, threads.map(partial(_damage, run_dir), files))


def _damage(run_dir: Path, recorded: tuple[str, str, int, str]) -> Damage | None:
    stage, name, size, sha256 = recorded
    path = run_dir / name
    try:
        stat = path.stat()
        if stat.st_size == size and digest_file(path) == sha256:
            return None
        with contextlib.suppress(OSError):  # a disk that may only be read
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    except FileNotFoundError:
        return Damage(stage, name, "missing")
    except OSError as error:
        return Damage(stage, name, f"unreadable: {error.strerror}")
    return Damage(stage, name, "changed")
