"""One long job and all that it starts: its log streamed, SIGTERM forwarded, nothing left behind at the end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

GRACE_S = 25.0  # for the last checkpoint, within the 30 s that a cancelled run may take
log = logging.getLogger("dualforce.launch")
_jobs: set[_Job] = set()
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
    job = _Job(command, variables or {})
    _jobs.add(job)
    if _leaving.is_set():  # since we looked
        job.ask()
    try:
        assert job.launcher.stdout is not None
        for line in job.launcher.stdout:
            last.append(line.rstrip())
            # numbers of every step are in the job's own log; the server's database is no place for them
            log.log(logging.INFO if numbers(last[-1]) is None else logging.DEBUG, "%s", last[-1])
            if on_line is not None:
                on_line(last[-1])
        code = job.launcher.wait()
    finally:
        job.end()
        _jobs.discard(job)
    if code != 0 and _leaving.is_set():
        raise JobStopped("the run was cancelled; run it again to go on from the last checkpoint")
    if code != 0:
        raise JobFailed(code, f"{Path(command[0]).name} ended with code {code}; its last lines:\n" + "\n".join(last))


def numbers(line: str) -> dict[str, Any] | None:
    """The JSON object that a line of a log is; None for text, also where two that printed at once tore their lines."""
    try:
        found: dict[str, Any] | None = json.loads(line) if line.startswith("{") else None
    except ValueError:
        return None
    return found


class _Job:
    """A launcher and its ranks. What is left `GRACE_S` after it was asked to end, or after the launcher ended, is killed.

    Each rank leads a session of its own and outlives its launcher, so neither process group nor parent tells whose it is;
    a variable that all inherit does.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]):
        self._mark = f"DUALFORCE_JOB_{uuid.uuid4().hex}"
        self.launcher = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **variables, self._mark: "1"},
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._asked = threading.Event()
        # a thread of its own, since lines of the log may stop coming without coming to an end
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def ask(self) -> None:
        """Ask the launcher to end, once: told twice, it would no longer wait for its ranks."""
        if self._asked.is_set():
            return
        self._asked.set()
        if self.launcher.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.launcher.pid, signal.SIGTERM)

    def end(self) -> None:
        """Returns when nothing of the job is left."""
        self.ask()
        self._keeper.join()
        self.launcher.wait()
        for stream in (self.launcher.stdin, self.launcher.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _keep(self) -> None:
        while self.launcher.poll() is None and not self._asked.wait(0.5):
            pass
        if self.launcher.poll() is not None:
            self._signal(signal.SIGTERM)  # to ranks that nobody else tells
        end = time.monotonic() + GRACE_S
        while (left := self._left()) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            log.warning("killed, for they had not ended within %g s: %s", GRACE_S, [process.pid for process in left])
        while self._signal(signal.SIGKILL):  # again, for those that were born meanwhile
            time.sleep(0.05)

    def _signal(self, sign: signal.Signals) -> int:
        """Send `sign` to all that is left; to how many."""
        left = self._left()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        return len(left)

    def _left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
                if self._mark in process.environ():
                    found.append(process)
        return found


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
            job.ask()
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
