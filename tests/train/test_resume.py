"""Real training processes, killed and started again: every loss and every weight as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chain import free_port
from safetensors.torch import load_file

from dualforce_model.train import checkpoint
from dualforce_model.train.config import OptimiserConfig
from dualforce_model.train.log import TIMING, read
from dualforce_model.train.optimiser import learning_rate

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20
SETTINGS = {"steps": STEPS, "batch": 4, "frames": 3, "checkpoint_every": 4, "validate_every": 8, "validate_windows": 4}


def command(data: Path, out: Path, processes: int, **settings) -> list[str]:
    pairs = [part for key, value in {**SETTINGS, **settings}.items() for part in ("--set", f"{key}={value}")]
    job = ["-m", "dualforce_model.train", "--data", str(data), "--out", str(out), *pairs]
    if processes == 1:
        return [sys.executable, *job]
    # with --cpu the launcher starts one process, whatever number it is given; --multi_gpu is its name for several
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--num_processes", str(processes), "--main_process_port", str(free_port())]
    return [sys.executable, *launch, *job]


def start(arguments: list[str], stdin: int = subprocess.DEVNULL) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run(arguments: list[str]) -> tuple[int, str]:
    process = start(arguments)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def interrupt(arguments: list[str], step: int, sign: int) -> tuple[int, str]:
    """Send `sign` to the whole group as soon as it says that `step` is done; exit code and output."""
    process, output = start(arguments), ""
    for line in process.stdout:
        output += line
        if line.startswith("{") and json.loads(line)["step"] == step:
            os.killpg(process.pid, sign)
    return process.wait(), output


def without_timing(out: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMING} for row in read(out / "log.jsonl")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def whole_runs(run_folder, tmp_path_factory) -> dict[int, Path]:
    """Uninterrupted runs on one and on two processes."""
    outs = {}
    for processes in (1, 2):
        outs[processes] = tmp_path_factory.mktemp(f"whole{processes}")
        code, output = run(command(run_folder, outs[processes], processes))
        assert code == 0, output
        assert f"{processes} process(es)" in output
    return outs


def same(out: Path, expected: Path) -> None:
    assert without_timing(out) == without_timing(expected)
    assert [f.name for f in checkpoint.folders(out)] == [f.name for f in checkpoint.folders(expected)]
    assert contents(out / "latest") == contents(expected / "latest")
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in expected.iterdir())


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_steps_and_in_the_middle_of_a_checkpoint(run_folder, whole_runs, tmp_path, processes):
    places = random.Random(processes)
    # a checkpoint is written right after the line of its step, so a kill at that line hits the writing
    at = [places.randrange(1, 4), 8, places.randrange(13, 19)] if processes == 1 else [12]
    for step in at:
        code, output = interrupt(command(run_folder, tmp_path, processes), step, signal.SIGKILL)
        assert code == -signal.SIGKILL, output
    code, output = run(command(run_folder, tmp_path, processes))
    assert code == 0, output
    assert "going on from" in output
    same(tmp_path, whole_runs[processes])


def test_sigterm_saves_and_exits_with_its_own_code(run_folder, whole_runs, tmp_path):
    code, output = interrupt(command(run_folder, tmp_path, 1), 6, signal.SIGTERM)
    assert code == 75, output
    stopped_at = checkpoint.newest(tmp_path)
    assert f"stopped at step {checkpoint.step_of(stopped_at)}" in output
    assert 6 <= checkpoint.step_of(stopped_at) < STEPS
    code, output = run(command(run_folder, tmp_path, 1))
    assert code == 0, output
    same(tmp_path, whole_runs[1])


def test_both_ranks_stop_at_the_same_step_on_sigterm(run_folder, whole_runs, tmp_path):
    _, output = interrupt(command(run_folder, tmp_path, 2), 6, signal.SIGTERM)
    stopped_at = checkpoint.step_of(checkpoint.newest(tmp_path))
    assert 6 <= stopped_at < STEPS
    assert output.count(f"stopped at step {stopped_at}") == 2
    code, output = run(command(run_folder, tmp_path, 2))
    assert code == 0, output
    same(tmp_path, whole_runs[2])


def test_a_supervised_run_stops_when_its_supervisor_is_gone(run_folder, tmp_path):
    process = start([*command(run_folder, tmp_path, 1), "--supervised"], stdin=subprocess.PIPE)
    for line in process.stdout:
        if line.startswith('{"step": 3,'):
            process.stdin.close()
    assert process.wait() == 75
    assert 3 <= checkpoint.step_of(checkpoint.newest(tmp_path)) < STEPS


def test_a_run_that_is_finished_has_nothing_to_do(run_folder, whole_runs, tmp_path):
    shutil.copytree(whole_runs[1], tmp_path / "out", symlinks=True)
    code, output = run(command(run_folder, tmp_path / "out", 1))
    assert code == 0, output
    same(tmp_path / "out", whole_runs[1])


def test_loader_processes_change_nothing(run_folder, whole_runs, tmp_path):
    code, output = run(command(run_folder, tmp_path, 1, workers=2))
    assert code == 0, output
    assert without_timing(tmp_path) == without_timing(whole_runs[1])
    assert contents(tmp_path / "latest" / "ema") == contents(whole_runs[1] / "latest" / "ema")


def test_the_rate_and_the_windows_are_the_same_on_one_and_two_processes(whole_runs):
    logs = {n: [row for row in without_timing(out) if "lr" in row] for n, out in whole_runs.items()}
    expected = [learning_rate(OptimiserConfig(), step, STEPS) for step in range(STEPS)]
    assert [row["lr"] for row in logs[1]] == [row["lr"] for row in logs[2]] == expected
    assert [row["step"] for row in logs[2]] == list(range(1, STEPS + 1))


def test_held_out_identities_are_measured_with_the_same_noise_every_time(whole_runs):
    rows = [row for row in without_timing(whole_runs[1]) if "val_loss" in row]
    assert [row["step"] for row in rows] == [8, 16]
    assert rows[1]["val_loss"] < rows[0]["val_loss"]


def test_checkpoints_hold_no_pickles_and_load_as_weights_only(whole_runs):
    files = [p for p in whole_runs[1].rglob("*") if p.is_file()]
    held = {p.suffix or p.name for p in files if "tensorboard" not in p.parts}
    assert held == {".safetensors", ".json", ".jsonl", "COMPLETE", ".lock"}
    averaged, own = (load_file(whole_runs[1] / "latest" / n / "model.safetensors") for n in ("ema", "model"))
    assert averaged.keys() == own.keys()
    assert any(not torch.equal(averaged[name], own[name]) for name in own)


def test_another_runs_checkpoint_is_refused_adopted_or_replaced(run_folder, whole_runs, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole_runs[1], out, symlinks=True)
    code, output = run(command(run_folder, out, 1, seed=7, steps=22))
    assert code == 2
    assert "belongs to another run: seed was 0 and is 7; steps was 20 and is 22" in output
    code, output = run(command(run_folder, out, 1, seed=7, steps=22, on_mismatch="adopt"))
    assert code == 0, output
    assert [row["step"] for row in read(out / "log.jsonl") if "loss" in row] == list(range(1, 23))
    code, output = run(command(run_folder, out, 1, steps=2, on_mismatch="restart"))
    assert code == 0, output
    assert [f.name for f in checkpoint.folders(out)] == ["step-000002"]
    assert len(read(out / "log.jsonl")) == 2


def test_a_checkpoint_of_another_dataset_is_refused(run_folder, whole_runs, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    shutil.copytree(whole_runs[1], tmp_path / "out", symlinks=True)
    facts = json.loads((tmp_path / "run" / "metadata.json").read_text())
    (tmp_path / "run" / "metadata.json").write_text(json.dumps({**facts, "identity": "0" * 32}))
    code, output = run(command(tmp_path / "run", tmp_path / "out", 1))
    assert code == 2
    assert f"the dataset was {facts['identity']} and is {'0' * 32}" in output


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_clips(run_folder, tmp_path):
    code, output = run(command(run_folder, tmp_path, 1, **{"optimiser.lr": "1e30", "optimiser.warmup": 0}))
    assert code == 3
    assert "diverged: step" in output
    assert "gradient is not finite" in output
    assert "good_hdtf_" in output


def test_a_corrupt_clip_is_named_once_and_counted(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    broken = next((tmp_path / "run" / "features" / "audio_features").glob("good_hdtf_may*"))
    broken.write_bytes(broken.read_bytes()[:5000])
    code, output = run(command(tmp_path / "run", tmp_path / "out", 1, steps=8, validate_every=0))
    assert code == 0, output
    assert output.count(f"clip {broken.stem} is skipped in training") == 1
    assert sum(row["skipped"] for row in read(tmp_path / "out" / "log.jsonl")) > 5
