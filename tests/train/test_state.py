"""Going on: past what rotted meanwhile, with what was counted, and never silently with another model than before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from chain import free_port

from dualforce_model.configs import shape
from dualforce_model.errors import BadInput
from dualforce_model.train import TrainConfig, checkpoint
from dualforce_model.train.log import read
from dualforce_model.train.loop import train

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"batch": 2, "frames": 3}


def quiet(_: str) -> None:
    pass


def stop_after(step: int) -> Callable[[str], None]:
    """Told what a training says, tells it to stop as soon as it is there."""

    def told(line: str) -> None:
        if line.startswith(f'{{"step": {step},'):
            os.kill(os.getpid(), signal.SIGTERM)

    return told


@pytest.fixture
def rotten(run_folder, tmp_path) -> Path:
    """Checkpoints of steps 4 and 8, the second with one bit that is not what was written."""
    train(TrainConfig(**SMALL, checkpoint_every=4, steps=8), run_folder, tmp_path, quiet)
    weights = tmp_path / "step-000008" / "model" / "model.safetensors"
    held = bytearray(weights.read_bytes())
    held[-1] ^= 1
    weights.write_bytes(held)
    return tmp_path


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_saved_after_going_on_from_before_a_rotten_checkpoint_stays(run_folder, rotten, keep):
    config, said = TrainConfig(**SMALL, checkpoint_every=4, steps=8, keep=keep), []

    def heard(line: str) -> None:
        said.append(line)
        stop_after(5)(line)

    stopped = train(config, run_folder, rotten, heard)
    assert stopped.state == "stopped"
    assert stopped.checkpoint == checkpoint.newest(rotten)
    assert (rotten / "latest").resolve() == stopped.checkpoint
    assert (rotten / "damaged-step-000008").is_dir()
    assert any("is kept as damaged-step-000008" in line for line in said)
    assert train(config, run_folder, rotten, quiet).checkpoint == checkpoint.newest(rotten)


def test_a_run_that_is_refused_moves_nothing(run_folder, rotten):
    before = sorted(path.name for path in rotten.iterdir())
    with pytest.raises(BadInput, match="belongs to another run: seed"):
        train(TrainConfig(**SMALL, checkpoint_every=4, steps=8, seed=1), run_folder, rotten, quiet)
    assert sorted(path.name for path in rotten.iterdir()) == before


def test_skipped_windows_are_counted_whatever_steps_are_logged(run_folder, tmp_path):
    broken = tmp_path / "run"
    shutil.copytree(run_folder, broken)
    file = next((broken / "features" / "audio_features").glob("good_hdtf_may*"))
    file.write_bytes(file.read_bytes()[:5000])
    config = TrainConfig(**SMALL, steps=9)
    every, some, stopped = (tmp_path / name for name in ("every", "some", "stopped"))

    def skipped(out: Path) -> list[int]:
        return [row["skipped"] for row in read(out / "log.jsonl")]

    train(config, broken, every, quiet)
    assert sum(skipped(every)) > 3
    seldom = replace(config, log_every=4)
    train(seldom, broken, some, quiet)
    assert skipped(some) == [sum(skipped(every)[a:b]) for a, b in ((0, 4), (4, 8), (8, 9))]
    assert train(seldom, broken, stopped, stop_after(4)).step == 5  # between two lines
    train(seldom, broken, stopped, quiet)
    assert skipped(stopped) == skipped(some)


def test_an_edited_preset_is_another_run(run_folder, tmp_path, monkeypatch):
    out, presets = tmp_path / "out", tmp_path / "presets"
    config = TrainConfig(**SMALL, steps=1)
    train(config, run_folder, out, quiet)
    shutil.copytree(shape.PRESETS, presets)
    with open(presets / "tiny.yaml", "a") as file:
        file.write("\nwindow: 2\n")  # of the same shapes
    monkeypatch.setattr(shape, "PRESETS", presets)
    with pytest.raises(BadInput, match=r"model\.window of preset tiny, .* was None and is 2"):
        train(config, run_folder, out, quiet)


def test_an_edited_ablation_is_another_run(run_folder, tmp_path, monkeypatch):
    config = TrainConfig(**SMALL, steps=1, ablation="struct_sigma_0.5")
    train(config, run_folder, tmp_path, quiet)
    assert train(config, run_folder, tmp_path, quiet).state == "finished"
    monkeypatch.setitem(shape.ABLATIONS, "struct_sigma_0.5", {"noise": {"sigma_s_max": 0.6}})
    with pytest.raises(BadInput, match=r"noise\.sigma_s_max of .* ablation struct_sigma_0\.5 was 0\.5 and is 0\.6"):
        train(config, run_folder, tmp_path, quiet)


def test_what_the_first_process_finds_wrong_ends_all(run_folder, tmp_path):
    """It alone looks at the checkpoint to start from; the others must not wait for ever."""
    launch = [sys.executable, "-m", "dualforce_model.train.launch", "--multi_gpu", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", "2"]
    job = ["--main_process_port", str(free_port()), "-m", "dualforce_model.train", "--data", str(run_folder)]
    job += ["--out", str(tmp_path), "--set", "batch=2", "--set", "frames=3", "--set", "start_from=nowhere"]
    done = subprocess.run(
        [*launch, *job], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.count("error: there is no checkpoint at") == 2
