"""Atomic publishing: write under a temporary name in the same folder, fsync, rename. Half a file is never seen whole."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = (
    f".partial-{zlib.crc32(os.uname().nodename.encode()):08x}-"  # a process id means something on its own machine
)
_UMASK = os.umask(0o002) | 0o002  # can only be read by setting it; what we write is never everybody's to change
os.umask(_UMASK)


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); on success it becomes `path`, on error it is removed.

    The folder is made if missing. The temporary name is unique, so two writers of one artifact can't mix their bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{born(os.getpid())}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fchmod(file.fileno(), 0o666 & ~_UMASK)  # some writers make files that only their owner may read
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as JSON with sorted keys."""
    with publish(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def sweep(folder: Path, below: bool = True) -> int:
    """Remove temporary files that killed processes of this machine left in `folder` (and below); returns how many.

    A file whose process is alive is somebody's work and stays, and so does what another machine writes here.
    """
    removed = 0
    for path in folder.rglob(f"{TEMPORARY}*") if below else folder.glob(f"{TEMPORARY}*"):
        pid, _, rest = path.name.removeprefix(TEMPORARY).partition("-")
        if not pid.isdigit() or rest.partition("-")[0] != born(int(pid)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def born(pid: int) -> str | None:
    """When a process of this machine began, in clock ticks since the machine did; None when it has ended.

    A number is given again, and this tells whose it is, whatever is done to the clock. One that was killed and whose parent
    has not asked after it yet (a zombie) has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
