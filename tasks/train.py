"""The training stages: each one long job under `accelerate launch`, resumed where it was killed, done once per dataset,
config and start. `train_video` and `train_few` are there only when they are configured.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from dualforce_model import config as configs
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES
from dualforce_model.report.plots import curve_page
from dualforce_model.store import digest_file, identity, ledger, publish, write_json
from dualforce_model.train import checkpoint, log
from dualforce_model.train.config import TrainConfig, lineage
from tasks import watch
from tasks.config import TRAININGS, RunnerConfig
from tasks.launch import JobFailed, numbers, run_job
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage, row_facts, upstream

VERSION = 2
BAD_INPUT, DIVERGED = 2, 3  # exit codes after which trying again at once would end the same way


def plan(name: str, run: Run) -> list[Item]:
    """The one training of this dataset under this config. Another dataset, config or start gets a folder of its own."""
    config: TrainConfig | None = getattr(run.config, name)
    if config is None:
        raise RunError(f"{name} is not configured: --set {name}=small, or a section {name} in the config")
    card = run.dir / "metadata.json"
    if not ledger.exists(run.dir, "metadata") or not card.exists():
        raise RunError(f"no dataset in {run.dir}; run the stage 'metadata' first")
    dataset = json.loads(card.read_text(encoding="utf-8"))["identity"]
    start = None
    if config.start_from is not None:
        folder = _start(run, config.start_from)
        config = configs.build(
            type(config), {**configs.to_dict(config), "start_from": os.path.relpath(folder, run.dir)}
        )
        start = digest_file(folder / checkpoint.MARKER)
    mine = identity(stage=name, version=VERSION, dataset=dataset, config=lineage(config), start=start)
    return [Item(mine, "", "", payload={"stage": name, "config": config, "runner": run.config.runner})]


def _start(run: Run, start_from: str) -> Path:
    """The checkpoint that is meant: of another training stage of this run, or a folder of one's own."""
    try:
        if start_from in TRAININGS:
            (row,) = upstream(run, start_from, "facts").itertuples(index=False)
            return checkpoint.resolve(run.dir / row_facts(row)["folder"])
        return checkpoint.resolve(run.dir / start_from)
    except BadInput as error:
        raise RunError(f"start_from {start_from}: {error}") from error
    except ValueError as error:
        raise RunError(f"start_from {start_from}: that stage has not finished in {run.dir}; run it first") from error


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Train to the end, or go on from the newest whole checkpoint of the same identity.

    Raises BadInput diverged, RunError (the training refused to begin), JobFailed and JobStopped.
    """
    config: TrainConfig = item.payload["config"]
    runner: RunnerConfig = item.payload["runner"]
    stage, out = item.payload["stage"], folder(run_dir, item)
    settings = out / "train.json"
    if not reuse and out.exists():
        config = _restarted(config)
    write_json(settings, configs.to_dict(config))

    launcher = [sys.executable, "-m", "dualforce_model.train.launch", *_launch(runner)]
    job = [
        "-m",
        "dualforce_model.train",
        "--config",
        str(settings),
        "--data",
        str(run_dir),
        "--out",
        str(out),
        "--supervised",
    ]
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, runner.gpus))} if runner.gpus else {}
    try:
        run_job([*launcher, *job], partial(follow, stage, config.steps), gpus)
    except JobFailed as error:
        if error.code == DIVERGED:
            raise BadInput("diverged", str(error)) from error
        if error.code == BAD_INPUT:  # a GPU in use, weights that are not there: a person has to see to it first
            raise RunError(str(error)) from error
        raise
    return [_row(run_dir, out, config)]


def follow(stage: str, steps: int, line: str) -> None:
    """Tell of the step that a line of the job's log is about: one JSON object for each, among other lines."""
    step = (numbers(line) or {}).get("step")
    if isinstance(step, int):
        watch.tell(stage, 0, step, steps)


def _row(run_dir: Path, out: Path, config: TrainConfig) -> Row:
    final = out / checkpoint.name_of(config.steps)
    fault = checkpoint.damage(final)
    if fault is not None:
        raise RunError(f"training ended, but its checkpoint {final} is not whole: {fault}")
    names = (checkpoint.MARKER, *sorted(json.loads((final / checkpoint.MARKER).read_text(encoding="utf-8"))))
    rows = log.read(out / log.NAME)
    with publish(out / "curve.svg") as temporary:
        temporary.write_text(curve_page(rows), encoding="utf-8")
    last: dict[str, Any] = {}
    for row in rows:
        last |= row
    scores: dict[str, float | None] = {
        name: last[name] for name in ("loss", "loss_video", "loss_struct", "val_loss") if last.get(name) is not None
    }
    folder_name = final.relative_to(run_dir)
    return Row(
        files=tuple(str(folder_name / name) for name in names), scores=scores, facts={"folder": str(folder_name)}
    )


def folder(run_dir: Path, item: Item) -> Path:
    return run_dir / "checkpoints" / item.identity[:12]


def processes(runner: RunnerConfig) -> int:
    """How many processes a training starts on this machine; a file of launch settings says it where there is one.

    Raises RunError when there is no such file, it does not say, or `train_processes` says otherwise.
    """
    file = runner.accelerate
    if file is None:
        return runner.train_processes
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        count = int(said["num_processes"]) // int(said.get("num_machines", 1))
    except OSError as error:
        raise RunError(f"runner.accelerate: there is no file {file}") from error
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"runner.accelerate: {file} does not say num_processes, of all machines together") from error
    if runner.train_processes not in (1, count):  # 1: it was left out
        raise RunError(
            f"runner.accelerate: {file} starts {count} processes on a machine and runner.train_processes is "
            f"{runner.train_processes}: leave that out, or change num_processes in a copy of the file"
        )
    return count


def _launch(runner: RunnerConfig) -> list[str]:
    """Arguments of `accelerate launch`: a file of settings, or this machine with so many processes."""
    count = processes(runner)
    if runner.accelerate is not None:
        return ["--config_file", str(runner.accelerate.absolute())]
    import torch

    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    if count > 1:  # the launcher's name for several processes, on the CPU too (--cpu starts only one)
        return ["--multi_gpu", "--num_processes", str(count), *plain]
    return [*([] if torch.cuda.is_available() else ["--cpu"]), "--num_processes", "1", *plain]


def _restarted(config: TrainConfig) -> TrainConfig:
    return configs.build(type(config), {**configs.to_dict(config), "on_mismatch": "restart"})


STAGES = {
    name: Stage(
        name, "checkpoints", partial(plan, name), work, plans_from=("metadata", *TRAININGS[:n]),
        reads_all=(*FEATURES, "text"),
        in_workers=False,
    )
    for n, name in enumerate(TRAININGS)
}  # fmt: skip
