"""One long job in a process group of its own: its log streamed, SIGTERM forwarded, nothing left behind at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

GRACE_S = 25.0  # for the last checkpoint, within the 30 s that a cancelled run may take
log = logging.getLogger("dualforce.launch")
_jobs: set[subprocess.Popen[str]] = set()
_leaving = threading.Event()  # this process was asked to end


class JobFailed(Exception):
    """The job ended with exit code `code`; the message holds the last lines of its log."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class JobStopped(Exception):
    """The job ended because this process was asked to."""


def run_job(
    command: Sequence[str], on_line: Callable[[str], None] | None = None, variables: Mapping[str, str] | None = None
) -> None:
    """Run `command` to its end, with environment `variables` of its own.

    Raises JobFailed when it exits with anything but 0, JobStopped when it was asked to.

    The job's standard input is a pipe that we hold: it closes when this process dies, even by SIGKILL, and the job
    takes that as its sign to leave, so no orphan goes on training beside the next run.
    """
    if _leaving.is_set():
        raise JobStopped("this run is being cancelled; run it again to go on")
    last: deque[str] = deque(maxlen=15)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(variables or {})}
    job = subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    _jobs.add(job)
    try:
        assert job.stdout is not None
        for line in job.stdout:
            last.append(line.rstrip())
            # numbers of every step are in the job's own log; the server's database is no place for them
            log.log(logging.DEBUG if line.startswith("{") else logging.INFO, "%s", last[-1])
            if on_line is not None:
                on_line(last[-1])
        code = job.wait()
    finally:
        _jobs.discard(job)
        _end(job)
    if code != 0 and _leaving.is_set():
        raise JobStopped("the run was cancelled; run it again to go on from the last checkpoint")
    if code != 0:
        raise JobFailed(code, f"{Path(command[0]).name} ended with code {code}; its last lines:\n" + "\n".join(last))


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
def passing_on() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C reach the running jobs at once while the block runs.

    Jobs are followed in threads of the task runner, which see no signal; the flow's own thread does and waits for them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals; the flow around us does
        return
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}

    def leave(sign: int, frame: FrameType | None) -> None:
        _leaving.set()
        for job in list(_jobs):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGTERM)
        signal.signal(sign, before[signal.Signals(sign)])  # and then whatever it did before, which ends this process
        signal.raise_signal(sign)

    try:
        for sign in before:
            signal.signal(sign, leave)
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        _leaving.clear()
