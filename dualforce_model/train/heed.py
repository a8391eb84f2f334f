"""What a training heeds while it runs: that it is told to stop, and that no other one writes into the same folder."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Signals:
    """Notes, without breaking a step, that it is time to go: SIGTERM, or whoever started us is gone."""

    def __init__(self, supervised: bool):
        self._asked, self._supervised, self._launcher = False, supervised, os.getppid()

    def __enter__(self) -> Signals:
        self._before = signal.signal(signal.SIGTERM, self._ask)
        if self._supervised:
            threading.Thread(target=self._wait_for_end_of_input, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _wait_for_end_of_input(self) -> None:
        while os.read(0, 4096):
            pass
        self._asked = True

    @property
    def caught(self) -> bool:
        launched = "LOCAL_RANK" in os.environ  # then the parent is the launcher
        return self._asked or (launched and os.getppid() != self._launcher)


@contextmanager
def sole_writer(out: Path, main: bool, say: Callable[[str], None]) -> Iterator[None]:
    """One run at a time writes into `out`; a second one waits for the first (its orphans, perhaps) to end."""
    if not main:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"waiting: process {lock.read().strip()} is training into {out}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
