"""A long job: its exit code, its environment, and nothing of it left behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest
from chain import ROOT, free_port
from waiting import until

from dualforce_model.store import born
from tasks import launch, watch
from tasks.launch import JobFailed, JobStopped, passing_on, run_job
from tasks.train import follow

CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
# says which process it is and hears no request to end
DEAF = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(120)
"""


class Told(BaseException):
    """What ends a flow's own process, as Prefect's does."""


@pytest.fixture
def told_by_sigterm():
    def tell(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGTERM, tell)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def two_deaf_ranks(tmp_path) -> list[str]:
    """The command of a real launcher, which starts each rank in a session of its own."""
    script = tmp_path / "deaf.py"
    script.write_text(DEAF)
    settings = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    number = ["--num_processes", "2", "--main_process_port", str(free_port())]
    return [sys.executable, "-m", "dualforce_model.train.launch", *settings, *number, str(script)]


def test_the_job_has_variables_of_its_own_and_its_lines_are_heard():
    lines = []
    run_job(
        [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"],
        lines.append,
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    )
    assert lines == ["2,3"]


def test_a_failed_job_tells_its_code_and_last_words():
    with pytest.raises(JobFailed, match="the last words") as error:
        run_job([sys.executable, "-c", "import sys; print('the last words'); sys.exit(3)"])
    assert error.value.code == 3


def test_nothing_of_a_job_outlives_the_one_who_follows_it():
    pids = []

    def heard(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job([sys.executable, "-c", CHILD], heard)
    (child,) = pids
    until(lambda: born(child) is None, "the end of the child", seconds=30)


class BothRanks:
    """Hears the job's lines; once both ranks have said which processes they are, does something to them, once."""

    def __init__(self, do: Callable[[list[int]], None]):
        self.ranks: list[int] = []
        self.at = 0.0  # when it was done
        self._do = do

    def __call__(self, line: str) -> None:
        if line.isdigit():
            self.ranks.append(int(line))
        if len(self.ranks) == 2 and not self.at:
            self.at = time.monotonic()
            self._do(self.ranks)


def test_a_cancelled_job_that_is_deaf_is_killed_with_all_its_ranks(two_deaf_ranks, told_by_sigterm, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_S", 1.0)
    heard = BothRanks(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Told), passing_on(), ThreadPoolExecutor(1) as tasks:
        job = tasks.submit(run_job, two_deaf_ranks, heard, {"PYTHONPATH": str(ROOT)})
        job.result()
    with pytest.raises(JobStopped):
        job.result()
    assert time.monotonic() - heard.at < 15  # alone the ranks live for 120 s, and their launcher waits 30 s for them
    assert [born(rank) for rank in heard.ranks] == [None, None]


def test_ranks_do_not_outlive_a_launcher_that_was_killed(two_deaf_ranks, monkeypatch):
    monkeypatch.setattr(launch, "GRACE_S", 1.0)
    heard = BothRanks(lambda ranks: psutil.Process(ranks[0]).parent().kill())
    with pytest.raises(JobFailed) as error:
        run_job(two_deaf_ranks, heard, {"PYTHONPATH": str(ROOT)})
    assert error.value.code == -signal.SIGKILL
    assert time.monotonic() - heard.at < 15
    assert [born(rank) for rank in heard.ranks] == [None, None]


def test_lines_that_two_processes_tore_are_text_and_stop_nothing(caplog):
    torn = '{"step": 3, "loss": 1.0}[rank1]: a warning'
    lines = ['{"step": 2}', torn, '{"of another": {"step": 7}}', '{"step": 4}']
    with caplog.at_level(logging.INFO, "dualforce"), watch.heard_by(lambda *told: steps.append(told)):
        steps: list[tuple] = []
        run_job([sys.executable, "-c", f"print(*{lines}, sep='\\n')"], partial(follow, "train", 9))
    assert steps == [("train", 0, 2, 9), ("train", 0, 4, 9)]
    assert caplog.messages == [torn]  # the others' numbers are in the job's own log
