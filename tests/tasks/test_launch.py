"""A long job: its exit code, its environment, and nothing of it left behind."""

from __future__ import annotations

import sys

import pytest
from waiting import until

from dualforce_model.store import born
from tasks.launch import JobFailed, run_job

CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


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
