"""Checkpoint folders: written whole or not at all, checked when read, pruned without ever losing the last good one.

step-000300/
    model/ ema/      weights and config of the model, and their moving average (what generation loads)
    optimiser/       first and second moments of each parameter
    rng/             states of torch's random generators, one file per process
    dataset.json     identity, statistics, provenance and size of the data: what generation needs of it
    state.json       step, place in the order of windows, training config, code version
    COMPLETE         size and digest of every file above; written last
latest -> step-000300      moved after the folder stands
damaged-step-000400/       what a resume passed over and set aside; counts for nothing, and is for people to remove
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from dualforce_model.errors import BadInput
from dualforce_model.store import digest_file

FORMAT = 2
MARKER = "COMPLETE"
LATEST = "latest"
DIGESTS = 4  # files that are hashed at once
WRITING, REMOVING, DAMAGED = ".writing-", ".removing-", "damaged-"


def name_of(step: int) -> str:
    return f"step-{step:06d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def folders(root: Path) -> list[Path]:
    """Checkpoint folders by step, whole or not."""
    return sorted((p for p in root.glob("step-*") if re.fullmatch(r"step-\d+", p.name)), key=step_of)


Facts = dict[str, dict[str, Any]]  # of each file: bytes and sha256


def unfinished(root: Path, step: int) -> Path:
    """Where the files of checkpoint `step` are written before it is published."""
    return root / f"{WRITING}{name_of(step)}"


def facts(folder: Path, names: Iterable[str]) -> Facts:
    """Size and digest of files that were just written, which are on the disk when this returns."""
    found: Facts = {}
    for name in sorted(names):
        path = folder / name
        _sync(path)
        found[name] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    return found


def write(root: Path, step: int, fill: Callable[[Path], None]) -> Path:
    """Publish checkpoint `step`: `fill` writes into an empty folder, which then gets its marker and its name."""
    temporary = unfinished(root, step)
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    fill(temporary)
    names = [str(p.relative_to(temporary)) for p in temporary.rglob("*") if p.is_file()]
    return publish(root, step, facts(temporary, names))


def publish(root: Path, step: int, whole: Facts) -> Path:
    """Give the files of checkpoint `step`, which are all on the disk, their marker and their name; `latest` follows."""
    final, temporary = root / name_of(step), unfinished(root, step)
    marker = temporary / MARKER
    marker.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in (marker, *(p for p in temporary.rglob("*") if p.is_dir()), temporary):
        _sync(path)
    if final.exists():  # it was found damaged
        remove(final)
    temporary.replace(final)
    _sync(root)
    _point(final)
    return final


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder; None when every file is what its marker says."""
    try:
        whole: Facts = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        for name, fact in whole.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if (folder / name).stat().st_size != fact["bytes"]:
                return f"{name} is not what was written"
        with ThreadPoolExecutor(DIGESTS) as pool:  # hashing leaves the interpreter to others
            digests = dict(zip(whole, pool.map(digest_file, [folder / name for name in whole]), strict=True))
        for name, fact in whole.items():
            if digests[name] != fact["sha256"]:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"no {MARKER} marker: it was not written to the end"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"unreadable {MARKER} marker: {error}"
    return None


def set_aside(root: Path, good: Path | None, say: Callable[[str], None] = print) -> None:
    """Rename the checkpoints beyond `good`, the newest whole one (None: there is none): all of them are damaged.

    Training passes their steps again, and nothing may take them for newer than what it saves. Only while nobody else
    writes here.
    """
    beyond = [folder for folder in folders(root) if good is None or step_of(folder) > step_of(good)]
    if beyond:
        (root / LATEST).unlink(missing_ok=True) if good is None else _point(good)
    for folder in beyond:
        named = (root / f"{DAMAGED}{folder.name}{f'-{n}' if n > 1 else ''}" for n in count(1))  # it may happen again
        aside = next(path for path in named if not path.exists())
        folder.rename(aside)
        say(f"damaged checkpoint {folder} is kept as {aside.name}; remove it when you need it no more")


def newest(root: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest whole checkpoint, if there is one; damaged ones on the way are named and passed over."""
    for folder in reversed(folders(root)):
        fault = damage(folder)
        if fault is None:
            return folder
        say(f"checkpoint {folder} is passed over: {fault}")
    return None


def marked(path: Path) -> Path | None:
    """What `resolve` would name by the markers alone, if the files are what they say. Reads no files of weights."""
    if (path / MARKER).exists():
        return path
    return next((folder for folder in reversed(folders(path)) if (folder / MARKER).exists()), None)


def resolve(path: Path) -> Path:
    """A whole checkpoint from its own folder, a link to it, or the folder that holds them. Raises BadInput."""
    if not path.exists():
        raise BadInput("no_checkpoint", f"there is no checkpoint at {path}")
    if (path / MARKER).exists() or path.name.startswith("step-"):
        folder: Path | None = path
        fault = damage(path)
        if fault:
            raise BadInput("damaged_checkpoint", f"checkpoint {path}: {fault}; use another one or train on from it")
    else:
        folder = newest(path)
    if folder is None:
        raise BadInput("no_checkpoint", f"{path} is no checkpoint and holds none (step-000123 with a {MARKER} marker)")
    return folder.resolve()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One of a checkpoint's JSON files. Raises BadInput for another format."""
    value: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    if value.get("format") != FORMAT:
        raise BadInput("other_format", f"{folder / name} has format {value.get('format')}, this is {FORMAT}")
    return value


def prune(root: Path, saved: int, keep: int, every: int) -> None:
    """Of the checkpoints before step `saved`, keep the last `keep` - 1 at multiples of `every` steps.

    `saved` was just published: of all that lie here it alone is known to be good, so it stays whatever else there is.
    One that a stopped run saved off that beat goes with the next, so that an interrupted run ends with the same folders
    as an undisturbed one. A folder without its marker counts for nothing.
    """
    before = [folder for folder in folders(root) if step_of(folder) < saved and (folder / MARKER).exists()]
    on_beat = [folder for folder in before if step_of(folder) % every == 0]
    kept = on_beat[max(0, len(on_beat) - (keep - 1)) :]
    for folder in before:
        if folder not in kept:
            remove(folder)


def clean(root: Path) -> None:
    """Remove what killed processes left behind. Only while nobody writes here."""
    for left in (*root.glob(f"{WRITING}*"), *root.glob(f"{REMOVING}*")):
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Take a checkpoint away; renamed first, so that a kill halfway leaves no half checkpoint under a good name."""
    gone = folder.with_name(REMOVING + folder.name)
    shutil.rmtree(gone, ignore_errors=True)
    folder.replace(gone)
    shutil.rmtree(gone)


def clear(root: Path) -> None:
    """Remove all checkpoints, to start again."""
    (root / LATEST).unlink(missing_ok=True)
    for folder in folders(root):
        remove(folder)


def _point(folder: Path) -> None:
    """Let `latest` name this checkpoint."""
    link = folder.with_name(f"{WRITING}{LATEST}")
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    link.replace(folder.with_name(LATEST))
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
