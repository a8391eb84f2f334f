"""Real training processes, killed and started again: every loss and every weight as if nothing had happened.

One process holds the whole model; two share it (FSDP2), unless a test says `copies`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from chain import free_port
from safetensors.torch import load_file
from waiting import until

from dualforce_model.errors import BadInput
from dualforce_model.model import from_pretrained
from dualforce_model.train import checkpoint
from dualforce_model.train.config import OptimiserConfig
from dualforce_model.train.export import export
from dualforce_model.train.log import TIMING, read
from dualforce_model.train.optimiser import learning_rate
from tasks.launch import numbers

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
SETTINGS = {
    "steps": STEPS,
    "batch": 4,
    "frames": 3,
    "checkpoint_every": 12,
    "validate_every": 24,
    "validate_windows": 4,
}
SHARDS = ["--config_file", str(ROOT / "infra" / "accelerate" / "fsdp2_8gpu.yaml")]
# with --cpu the launcher starts one process, whatever number it is given; --multi_gpu is its name for several
COPIES = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def command(data: Path, out: Path, processes: int, launch: list[str] = SHARDS, **settings) -> list[str]:
    pairs = [part for key, value in {**SETTINGS, **settings}.items() for part in ("--set", f"{key}={value}")]
    job = ["-m", "dualforce_model.train", "--data", str(data), "--out", str(out), *pairs]
    if processes == 1:
        return [sys.executable, *job]
    number = ["--num_processes", str(processes), "--main_process_port", str(free_port())]
    return [sys.executable, "-m", "dualforce_model.train.launch", *launch, *number, *job]


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
    """Send `sign` as soon as the job says that `step` is done; exit code and output.

    SIGKILL goes to the launcher and to each rank, which leads a group of its own, at once: no launcher tells the others,
    and none of them has time to notice that it is gone.
    """
    process, output = start(arguments), ""
    for line in process.stdout:
        output += line
        if (numbers(line) or {}).get("step") != step:
            continue
        if sign == signal.SIGKILL:
            launcher = psutil.Process(process.pid)
            for one in (launcher, *launcher.children(recursive=True)):
                one.kill()
        else:
            os.killpg(process.pid, sign)
    if sign == signal.SIGKILL:
        assert "stopped at" not in output, ending(process.wait(), output)
    return process.wait(), output


def ending(code: int, output: str) -> str:
    """What is worth reading of a run that ended otherwise than it should."""
    return f"exit code {code} after: …{output[-2000:]}"


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
        assert code == 0, ending(code, output)
        assert f"{processes} process(es)" in output
    return outs


def same(out: Path, expected: Path) -> None:
    assert without_timing(out) == without_timing(expected)
    assert [f.name for f in checkpoint.folders(out)] == [f.name for f in checkpoint.folders(expected)]
    assert contents(out / "latest") == contents(expected / "latest")
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in expected.iterdir())


def test_killed_in_the_middle_of_a_checkpoint(run_folder, whole_runs, tmp_path):
    # a checkpoint is written right after the line of its step, so a kill at that line hits the writing
    code, output = interrupt(command(run_folder, tmp_path, 1), 36, signal.SIGKILL)
    assert code == -signal.SIGKILL, ending(code, output)
    code, output = run(command(run_folder, tmp_path, 1))
    assert code == 0, ending(code, output)
    assert "going on from" in output
    same(tmp_path, whole_runs[1])


def test_two_that_share_the_model_killed_at_three_random_places_and_told_to_stop(run_folder, whole_runs, tmp_path):
    places = random.Random(2)
    for step in (places.randrange(1, 12), 24, places.randrange(26, 35)):
        code, output = interrupt(command(run_folder, tmp_path, 2), step, signal.SIGKILL)
        assert code == -signal.SIGKILL, ending(code, output)
    code, output = interrupt(command(run_folder, tmp_path, 2), places.randrange(38, 57), signal.SIGTERM)
    assert code == 75, ending(code, output)
    stopped_at = checkpoint.step_of(checkpoint.newest(tmp_path))
    assert 38 <= stopped_at < STEPS
    assert output.count(f"stopped at step {stopped_at}") == 2  # both at the same
    code, output = run(command(run_folder, tmp_path, 2))
    assert code == 0, ending(code, output)
    assert f"going on from {tmp_path / checkpoint.name_of(stopped_at)}" in output
    same(tmp_path, whole_runs[2])


def test_sigterm_saves_and_exits_with_its_own_code(run_folder, whole_runs, tmp_path):
    code, output = interrupt(command(run_folder, tmp_path, 1), 6, signal.SIGTERM)
    assert code == 75, ending(code, output)
    stopped_at = checkpoint.newest(tmp_path)
    assert f"stopped at step {checkpoint.step_of(stopped_at)}" in output
    assert 6 <= checkpoint.step_of(stopped_at) < STEPS
    code, output = run(command(run_folder, tmp_path, 1))
    assert code == 0, ending(code, output)
    same(tmp_path, whole_runs[1])


@pytest.mark.parametrize(("ranks", "code"), [((75, 75), 75), ((75, 1), 1), ((1, 1), 1), ((0, 0), 0)])
def test_the_launcher_says_stopped_only_if_no_process_failed_to_save(tmp_path, ranks, code):
    script = tmp_path / "rank.py"
    script.write_text(f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit({ranks}[int(os.environ["RANK"])]))
print("up", flush=True)
time.sleep(60)
""")
    number = ["--num_processes", "2", "--main_process_port", str(free_port())]
    process = start([sys.executable, "-m", "dualforce_model.train.launch", *COPIES, *number, str(script)])
    up = 0
    for line in process.stdout:
        up += line.startswith("up")
        if up == 2:
            process.terminate()
            break
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, ending(process.returncode, output)


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
    assert code == 0, ending(code, output)
    same(tmp_path / "out", whole_runs[1])


def test_loader_processes_change_nothing(run_folder, whole_runs, tmp_path):
    code, output = run(command(run_folder, tmp_path, 1, workers=2))
    assert code == 0, ending(code, output)
    assert without_timing(tmp_path) == without_timing(whole_runs[1])
    assert contents(tmp_path / "latest" / "ema") == contents(whole_runs[1] / "latest" / "ema")


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_loader_processes_end_with_their_training(run_folder, tmp_path, sign, code):
    """A preempted job's processes are all told to end, the loader's too: the training saves nevertheless."""
    process, output, family = start(command(run_folder, tmp_path, 1, workers=2)), "", []
    for line in process.stdout:
        output += line
        if line.startswith('{"step": 3,'):
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill() if sign == signal.SIGKILL else os.killpg(process.pid, sign)
    assert process.wait() == code, ending(process.returncode, output)
    assert len(family) >= 2
    until(lambda: not any(member.is_running() for member in family), "the end of the loader's processes")
    if sign == signal.SIGTERM:
        assert f"stopped at step {checkpoint.step_of(checkpoint.newest(tmp_path))}" in output


def steps_of(out: Path) -> list[dict]:
    return [row for row in read(out / "log.jsonl") if "loss" in row]


def agree(rows: list[dict], expected: list[dict]) -> None:
    """The same losses, norms and rates, but for the order of sums in fp32 and what that grows to."""
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert [row["lr"] for row in rows] == [row["lr"] for row in expected]
    for name in ("loss", "loss_video", "loss_struct", "loss_flame", "grad_norm"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=2e-3), name


def test_rates_losses_and_windows_are_the_same_on_one_and_two_processes(whole_runs):
    logs = {n: steps_of(out) for n, out in whole_runs.items()}
    assert [row["lr"] for row in logs[1]] == [learning_rate(OptimiserConfig(), step, STEPS) for step in range(STEPS)]
    assert [row["step"] for row in logs[2]] == list(range(1, STEPS + 1))
    agree(logs[2], logs[1])
    held_out = [
        [row["val_loss"] for row in read(out / "log.jsonl") if "val_loss" in row] for out in whole_runs.values()
    ]
    assert held_out[1] == pytest.approx(held_out[0], rel=2e-3)


@pytest.mark.parametrize(
    ("before", "after", "how"), [(1, 2, {"launch": COPIES, "accumulate": 2}), (2, 1, {})], ids=["1 to 2", "2 to 1"]
)
def test_a_run_goes_on_with_another_number_of_processes(run_folder, whole_runs, tmp_path, before, after, how):
    """Among them: from one process to two copies that take each batch in pieces, from two shards to one process."""
    out = tmp_path / "out"
    shutil.copytree(whole_runs[before], out, symlinks=True)
    shutil.rmtree(out / checkpoint.name_of(STEPS))
    code, output = run(command(run_folder, out, after, **how))
    assert code == 0, ending(code, output)
    assert f"going on from {out / checkpoint.name_of(48)}" in output
    agree(steps_of(out)[48:], steps_of(whole_runs[before])[48:])
    ends = [from_pretrained(folder / "latest" / "ema").state_dict() for folder in (out, whole_runs[before])]
    assert all(torch.allclose(ends[0][name], value, atol=1e-4) for name, value in ends[1].items())


def test_eight_processes_share_the_model_and_two_each_window(run_folder, whole_runs, tmp_path):
    """The layout that `mova_lite` is meant for, with the rates and losses of one process alone."""
    code, output = interrupt(command(run_folder, tmp_path, 8, sequence=2), 3, signal.SIGTERM)
    assert code == 75
    assert "8 process(es), shards of the model, 2 to a window, cpu" in output
    rows = steps_of(tmp_path)
    assert len(rows) >= 3
    agree(rows, steps_of(whole_runs[1])[: len(rows)])
    assert checkpoint.step_of(checkpoint.newest(tmp_path)) == len(rows)


def test_held_out_identities_are_measured_with_the_same_noise_every_time(whole_runs):
    rows = [row for row in without_timing(whole_runs[1]) if "val_loss" in row]
    assert [row["step"] for row in rows] == [24, 48]
    assert rows[1]["val_loss"] < rows[0]["val_loss"]


def test_checkpoints_hold_no_pickles_and_load_as_weights_only(whole_runs):
    files = [p for p in whole_runs[1].rglob("*") if p.is_file()]
    held = {p.suffix or p.name for p in files if "tensorboard" not in p.parts}
    assert held == {".safetensors", ".json", ".jsonl", "COMPLETE", ".lock"}
    averaged, own = (load_file(whole_runs[1] / "latest" / n / "model.safetensors") for n in ("ema", "model"))
    assert averaged.keys() == own.keys()
    assert any(not torch.equal(averaged[name], own[name]) for name in own)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_model_is_taken_out_of_a_checkpoint_whole_or_spread(whole_runs, tmp_path, processes):
    source = whole_runs[processes] / "latest"
    for weights in ("ema", "model"):
        out = export(whole_runs[processes], tmp_path / weights, weights)
        assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "origin.json"]
        whole, made = from_pretrained(source / weights).state_dict(), from_pretrained(out).state_dict()
        assert made.keys() == whole.keys()
        assert all(torch.equal(made[name], value) for name, value in whole.items())
    assert json.loads((tmp_path / "ema" / "origin.json").read_text())["step"] == STEPS
    with pytest.raises(BadInput, match="nothing there is overwritten"):
        export(whole_runs[processes], tmp_path / "ema")


def test_another_runs_checkpoint_is_refused_adopted_or_replaced(run_folder, whole_runs, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole_runs[1], out, symlinks=True)
    code, output = run(command(run_folder, out, 1, seed=7, steps=62))
    assert code == 2
    assert "belongs to another run: seed was 0 and is 7; steps was 60 and is 62" in output
    code, output = run(command(run_folder, out, 1, seed=7, steps=62, on_mismatch="adopt"))
    assert code == 0, ending(code, output)
    assert [row["step"] for row in read(out / "log.jsonl") if "loss" in row] == list(range(1, 63))
    code, output = run(command(run_folder, out, 1, steps=2, on_mismatch="restart"))
    assert code == 0, ending(code, output)
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
    code, output = run(command(run_folder, tmp_path, 2, **{"optimiser.lr": "1e30", "optimiser.warmup": 0}))
    assert code == 3
    assert "diverged: step" in output
    assert "gradient is not finite" in output
    assert "good_hdtf_" in output


def test_a_corrupt_clip_is_named_once_and_counted(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    broken = next((tmp_path / "run" / "features" / "audio_features").glob("good_hdtf_may*"))
    broken.write_bytes(broken.read_bytes()[:5000])
    code, output = run(command(tmp_path / "run", tmp_path / "out", 1, steps=8, validate_every=0))
    assert code == 0, ending(code, output)
    assert output.count(f"clip {broken.stem} is skipped in training") == 1
    assert sum(row["skipped"] for row in read(tmp_path / "out" / "log.jsonl")) > 5
