"""Stage `source`: find the videos of a local folder, name them by path and content, and probe each."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, Literal

from dualforce_model import media
from dualforce_model.download import deny
from dualforce_model.errors import BadInput, Rejected
from dualforce_model.store import digest_bytes, digest_file, identity, ledger
from tasks import cut
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage

VERSION = 1


def plan(run: Run) -> list[Item]:
    """One item per video file and per listed clip whose video came.

    A file's identity is size and time of change, so that unchanged files are not read again.
    """
    if run.config.source.input is None and not run.config.download.lists:
        raise RunError("no input: give --input FOLDER, or set source.input or download.lists in the config")
    listed = cut.items(run) if run.config.download.lists else []
    return listed if run.config.source.input is None else [*_local(run, run.config.source.input), *listed]


def _local(run: Run, root: Path) -> list[Item]:
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise RunError(f"the input folder {root} does not exist or is not a folder")
    paths = _walk(root, run.dir, tuple(s.lower() for s in run.config.source.suffixes))
    if not paths:
        raise RunError(f"no videos under {root}: looked for files ending in {' '.join(run.config.source.suffixes)}")
    denied = deny.read(run.dir)
    known = ledger.read(run.dir, "source")[["source", "source_id"]] if denied else None
    ids = {} if known is None else dict(known.itertuples(index=False))
    items = [_item(os.fspath(root), path) for path in paths]
    return [item for item in items if not deny.denies(denied, item.source, ids.get(item.source, ""))]


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Hash and probe one file, or find one listed clip in its video."""
    if "clip" in item.payload:
        return cut.work(item, run_dir)
    if "trouble" in item.payload:
        raise BadInput(*item.payload["trouble"])
    path = Path(item.payload["path"])
    try:
        content = digest_file(path)
    except PermissionError:
        return [Row("failed", "no_permission", f"{item.source!r} may not be read; check its permissions", retry=True)]
    slug = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:40].strip("-") or "video"
    short = digest_bytes("\n".join((item.source, content)).encode())[:8]
    source_id = f"{slug}-{short}"
    facts: dict[str, Any] = {"content": content, "path": str(path)}
    try:
        info = media.probe(path)
    except (Rejected, BadInput) as verdict:
        status: Literal["rejected", "failed"] = "rejected" if isinstance(verdict, Rejected) else "failed"
        return [Row(status, verdict.reason, str(verdict), source_id=source_id, facts=facts)]
    facts |= {"probe": dataclasses.asdict(info)}
    return [Row(source_id=source_id, facts=facts)]


def _item(root: str, path: str) -> Item:
    name = os.path.relpath(path, root) if not path.startswith(f"{root}/") else path[len(root) + 1 :]
    payload: dict[str, object] = {"path": path}
    try:
        name.encode()
    except UnicodeEncodeError:
        payload["trouble"] = ("name_not_utf8", "the file name is not valid UTF-8; rename the file")
        name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    try:
        stat = os.stat(path)
        parts = {"path": root, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    except OSError as error:
        parts = {"error": error.strerror}
        reason = "symlink_loop" if error.errno == 40 else "unreadable"
        payload["trouble"] = (reason, f"{name!r} cannot be opened: {error.strerror}")
    mine = identity(stage="source", version=VERSION, name=name, trouble=payload.get("trouble"), **parts)
    return Item(mine, "", name, payload=payload)


def _walk(root: Path, run_dir: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Every file with a known suffix, in name order; linked folders are followed, but none is entered twice."""
    found: list[str] = []
    entered: set[tuple[int, int]] = set()

    def enter(folder: Path) -> None:
        stat = folder.stat()
        if (stat.st_dev, stat.st_ino) in entered or folder == run_dir:
            return
        entered.add((stat.st_dev, stat.st_ino))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError as error:
            raise RunError(f"the folder {folder} may not be read; check its permissions") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry.path):  # entry.is_dir() raises on a link that leads to itself
                enter(Path(entry.path))
            elif entry.name.lower().endswith(suffixes):
                found.append(entry.path)

    enter(root)
    return found


STAGE = Stage("source", "", plan, work, gives="clips", reads=("download",))
