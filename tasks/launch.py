"""One long job in a process group of its own: its log streamed, SIGTERM forwarded, nothing left behind at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

GRACE_S = 25.0  # for the last checkpoint, within the 30 s that a cancelled run may take
log = logging.getLogger("dualforce.launch")


class JobFailed(Exception):
    """The job ended with an error; the message holds the last lines of its log."""


def run_job(command: Sequence[str], on_line: Callable[[str], None] | None = None) -> None:
    """Run `command` to its end. Raises JobFailed when it exits with anything but 0.

    The job's standard input is a pipe that we hold: it closes when this process dies, even by SIGKILL, and the job
    takes that as its sign to leave, so no orphan goes on training beside the next run.
    """
    last: deque[str] = deque(maxlen=15)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    job = subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        with _forward_sigterm(job):
            assert job.stdout is not None
            for line in job.stdout:
                last.append(line.rstrip())
                log.info("%s", last[-1])
                if on_line is not None:
                    on_line(last[-1])
            code = job.wait()
    finally:
        _end(job)
    if code != 0:
        raise JobFailed(f"{Path(command[0]).name} ended with code {code}; its last lines:\n" + "\n".join(last))


def _end(job: subprocess.Popen[str]) -> None:
    """Stop whatever is left of the group: first asked, then killed."""
    for sign, wait in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 5.0)):
        if job.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(wait)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(job.pid, signal.SIGKILL)  # ranks whose launcher is gone
    for stream in (job.stdin, job.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def _forward_sigterm(job: subprocess.Popen[str]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals; there `_end` asks the group to stop
        return

    def forward(sign: int, frame: object) -> None:
        os.killpg(job.pid, signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
