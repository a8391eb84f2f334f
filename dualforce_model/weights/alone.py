"""One at a time: two fetches of the same thing would mix their bytes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def alone(lock: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the file `lock`: other threads and processes wait, and `say` so once. Whoever held it removes it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting: another process holds {lock}")
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _lies_at(lock, file):  # removed while we waited: the next one would lock another file
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _lies_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
