"""SIGKILL at five moments of one run, then run again: the ledger and every byte equal those of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import chain
import pytest
from chain import ROOT, call, differences, run_command


@pytest.fixture(autouse=True)
def server_without_limits(tmp_path):
    """Others set a limit on GPUs, and the slot of a killed training is held for two minutes."""
    with chain.prefect_server(tmp_path / "prefect"):
        yield


def there_is(folder: Path, pattern: str):
    def moment() -> bool:
        try:
            return next(folder.rglob(pattern), None) is not None
        except FileNotFoundError:  # a folder went away while we looked
            return False

    return moment


def kill_when(arguments: list[str], moment, what: str) -> None:
    """Run, and SIGKILL the run at the moment. One that slips by (a file is written in milliseconds) is forced again."""
    for attempt in range(4):
        process = subprocess.Popen(
            [*arguments, *(["--force"] if attempt else [])],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if moment():
                process.send_signal(signal.SIGKILL)
                assert process.wait(30) == -signal.SIGKILL
                return
        assert process.returncode == 0, f"the run failed before the moment {what!r}"
    pytest.fail(f"the moment {what!r} did not come in four runs")


def test_killed_five_times_and_run_again(finished, videos, tmp_path):
    run_dir = tmp_path / "run"
    arguments = run_command(videos, run_dir)
    moments = {
        "while a clip is being written": there_is(run_dir / "clips", ".partial-*.mp4"),
        "between two clips": there_is(run_dir / "clips", "*-s?t?.json"),
        "while features are being written": there_is(run_dir / "features", ".partial-*"),
        "after the first checkpoint": there_is(run_dir / "checkpoints", "COMPLETE"),
        "while the sample is being written": there_is(run_dir / "samples", ".partial-*"),
    }
    for what, moment in moments.items():
        kill_when(arguments, moment, what)
    call(arguments)
    assert differences(run_dir, finished) == []
