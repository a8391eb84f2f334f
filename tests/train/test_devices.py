"""One process per GPU, held by real processes for exactly as long as they live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dualforce_model.errors import BadInput
from dualforce_model.train import devices

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from dualforce_model.train import devices
with devices.held(sys.argv[1], "training into X"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_LOCKS", str(tmp_path / "locks"))


def holder(gpu: str, **environment: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, gpu],
        cwd=ROOT, env={**os.environ, **environment}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def test_a_gpu_in_use_is_refused_and_the_holder_named(locks):
    process = holder("0")
    try:
        with (
            pytest.raises(BadInput, match=f"GPU 0 is held by process {process.pid}, training into X") as error,
            devices.held("0", "another", wait_s=0.0),
        ):
            pass
        assert error.value.reason == "gpu_in_use"
        with devices.held("1", "another", wait_s=0.0):  # the other GPU is free
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not os.access("/run/lock", os.W_OK), reason="nobody but root may write into /run/lock here")
def test_processes_with_temporary_folders_of_their_own_see_each_other(tmp_path, monkeypatch):
    """As services with PrivateTmp, containers and jobs of SLURM have."""
    monkeypatch.delenv("DUALFORCE_LOCKS", raising=False)
    gpu = f"test-{os.getpid()}"
    process = holder(gpu, TMPDIR=str(tmp_path))
    try:
        with pytest.raises(BadInput, match=f"held by process {process.pid}"), devices.held(gpu, "x", wait_s=0.0):
            pass
    finally:
        process.kill()
        process.wait()
        (devices.SHARED / f"dualforce-gpu-{gpu}.lock").unlink()


def test_the_worker_of_a_machine_may_lock_there_and_others_may_read(locks):
    unit = (ROOT / "infra" / "systemd" / "dualforce-worker@.service").read_text()
    assert f"ReadWritePaths=-{devices.SHARED}\n" in unit  # else ProtectSystem=strict keeps it out
    before = os.umask(0o077)
    try:
        with devices.held("0", "a service"):
            assert (devices.place() / "dualforce-gpu-0.lock").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_killed_process_holds_nothing_and_a_leaving_one_is_waited_for(locks):
    process, said = holder("0"), []

    def then_kill(line: str) -> None:
        said.append(line)
        os.kill(process.pid, signal.SIGKILL)

    with devices.held("0", "another", then_kill):
        assert said == [f"waiting: GPU 0 is held by process {process.pid}, training into X"]
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("visible", "rank", "name"), [("2,3", "1", "3"), ("GPU-aa", "0", "GPU-aa"), ("", "0", None), ("-1", "0", None)]
)
def test_the_name_of_a_process_s_gpu(monkeypatch, visible, rank, name):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert devices.mine() == name


def test_a_second_training_on_the_same_gpu_is_refused(run_folder, tmp_path):
    environment = {**os.environ, "DUALFORCE_LOCKS": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0", "PYTHONPATH": str(ROOT)}
    given = ["--data", run_folder, "--set", "batch=2", "--set", "frames=3", "--gpu-wait", "0"]
    command = [sys.executable, "-m", "dualforce_model.train", *map(str, given)]
    first = subprocess.Popen(
        [*command, "--out", str(tmp_path / "a"), "--set", "steps=100000"],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert any(line.startswith("training tiny") for line in first.stdout)
        second = subprocess.run(
            [*command, "--out", str(tmp_path / "b")], cwd=ROOT, env=environment, text=True, capture_output=True
        )
        assert second.returncode == 2
        assert f"GPU 0 is held by process {first.pid}, training into {tmp_path / 'a'}" in second.stderr
        assert not (tmp_path / "b").exists()
    finally:
        first.kill()
        first.wait()
