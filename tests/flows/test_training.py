"""The training stages as the workflow runs them: one after the other, through the death of a process, and to a halt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from chain import ROOT, command
from waiting import until

from dualforce_model.store import ledger
from dualforce_model.train import checkpoint, start
from dualforce_model.train.log import read
from tasks import generate, train
from tasks.run import Run, RunError, read_config
from tasks.stage import Item

SHORT = ["batch=2", "frames=3", "checkpoint_every=2"]
SETS = [f"{stage}.{setting}" for stage in ("train_video", "train") for setting in SHORT]
SETS += ["train_video.steps=12", "train.steps=4", "train.start_from=train_video"]


def run(run_dir: Path, *more: str) -> list[str]:
    return command("run", run_dir, *more, *(part for pair in SETS for part in ("--set", pair)))


def processes(run_dir: Path) -> list[psutil.Process]:
    """Of the training: the launcher and its ranks."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "dualforce_model.train" in words and str(run_dir) in words:
            found.append(process)
    return found


def folder_of(run_dir: Path, stage: str) -> Path:
    (row,) = ledger.read(run_dir, stage).to_dict("records")
    return run_dir / Path(json.loads(row["facts"])["folder"]).parent


def test_two_stages_of_which_one_is_killed(run_copy):
    process = subprocess.Popen(
        run(run_copy, "--only", "train_video", "--only", "train"), cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    before = set((run_copy / "checkpoints").iterdir())

    def under_way() -> bool:
        new = [folder for folder in (run_copy / "checkpoints").iterdir() if folder not in before]
        return any(checkpoint.folders(folder) for folder in new)

    until(under_way, "the first checkpoint", seconds=120)
    ranks = [child for one in processes(run_copy) for child in (one, *one.children(recursive=True))]
    assert ranks
    for rank in ranks:
        rank.kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said

    video, joint = (folder_of(run_copy, stage) for stage in ("train_video", "train"))
    steps = [row["step"] for row in read(video / "log.jsonl") if "loss" in row]
    assert steps == list(range(1, 13))  # the second attempt went on where the first was killed
    told = start.read(joint)
    assert [told["stage"], told["before"]["stage"]] == ["joint", "video"]
    assert told["start"]["digest"] == start.digest(checkpoint.newest(video))
    assert (joint / "curve.svg").read_text().startswith("<svg xmlns")


def planned(run_copy: Path, *settings: str) -> Item:
    (item,) = train.STAGES["train_few"].plan(Run(run_copy, read_config(run_copy, settings)))
    return item


def test_a_stage_is_planned_from_the_checkpoint_that_it_starts_from(run_copy):
    (row,) = ledger.read(run_copy, "train").to_dict("records")
    last = json.loads(row["facts"])["folder"]
    few = planned(run_copy, "train_few={}")
    assert few.payload["config"].start_from == last
    assert planned(run_copy, f"train_few.start_from={last}").identity == few.identity  # the same, called otherwise
    assert planned(run_copy, "train_few.few_step.steps=1").identity != few.identity
    (run_copy / last / checkpoint.MARKER).write_text((run_copy / last / checkpoint.MARKER).read_text() + "\n")
    assert planned(run_copy, "train_few={}").identity != few.identity  # other weights


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train_few=null", "train_few is not configured"),
        ("train_few.start_from=train_video", "stage 'train_video' has not run"),
        ("train_few.start_from=nowhere", "start_from nowhere: there is no checkpoint at"),
    ],
)
def test_a_stage_that_cannot_start_says_why(run_copy, setting, message):
    with pytest.raises(RunError, match=message):
        planned(run_copy, setting)


def test_the_sample_is_made_by_the_last_stage(run_copy):
    run = Run(run_copy, read_config(run_copy, ("train_few={}",)))
    with pytest.raises(RunError, match="stage 'train_few' has not run"):
        generate.STAGE.plan(run)


def test_told_to_stop_it_leaves_a_good_checkpoint_and_no_process(run_copy):
    process = subprocess.Popen(
        run(run_copy, "--only", "train_video", "--set", "train_video.steps=100000"),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    before = set((run_copy / "checkpoints").iterdir())

    def out() -> Path | None:
        new = [path for path in (run_copy / "checkpoints").iterdir() if path not in before]
        return next((path for path in new if len(read(path / "log.jsonl")) > 3), None)

    until(lambda: out() is not None, "the first steps", seconds=120)
    process.send_signal(signal.SIGTERM)
    until(lambda: not processes(run_copy), "the end of the training", seconds=30)
    folder = out()
    last = checkpoint.newest(folder)
    assert checkpoint.damage(last) is None
    assert checkpoint.step_of(last) == max(row["step"] for row in read(folder / "log.jsonl"))
    process.wait(30)
