"""SIGKILL at five moments of one run, then run again: the ledger and every byte equal those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from chain import ROOT, call, differences, run_command


def mid_write(folder: Path, pattern: str):
    return lambda: next(folder.rglob(pattern), None) is not None


def kill_when(arguments: list[str], moment, what: str) -> None:
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    end = time.monotonic() + 300
    while not moment():
        assert process.poll() is None, f"the run ended before the moment {what!r}:\n{process.stdout.read().decode()}"
        assert time.monotonic() < end, f"the moment {what!r} did not come"
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()


def test_killed_five_times_and_run_again(finished, videos, tmp_path):
    run_dir = tmp_path / "run"
    arguments = run_command(videos, run_dir)
    moments = {
        "while a clip is being written": mid_write(run_dir / "clips", ".partial-*.mp4"),
        "between two clips": lambda: next((run_dir / "clips").glob("*.json"), None) is not None,
        "while features are being written": mid_write(run_dir / "features", ".partial-*"),
        "after the first checkpoint": lambda: next((run_dir / "checkpoints").rglob("COMPLETE"), None) is not None,
        "while the sample is being written": mid_write(run_dir / "samples", ".partial-*"),
    }
    for what, moment in moments.items():
        kill_when(arguments, moment, what)
    call(arguments)
    assert differences(run_dir, finished) == []
