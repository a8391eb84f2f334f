"""Stage `train`: one long job under `accelerate launch`, resumed where it was killed, finished once per dataset and config."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dualforce_model import config as configs
from dualforce_model.store import identity, ledger, write_json
from dualforce_model.train import checkpoint, log
from dualforce_model.train.config import TrainConfig, lineage
from tasks import watch
from tasks.config import RunnerConfig
from tasks.launch import run_job
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage

VERSION = 1


def plan(run: Run) -> list[Item]:
    """The one training of this dataset under this config. Another dataset or config gets a folder of its own."""
    card = run.dir / "metadata.json"
    if not ledger.exists(run.dir, "metadata") or not card.exists():
        raise RunError(f"no dataset in {run.dir}; run the stage 'metadata' first")
    dataset = json.loads(card.read_text(encoding="utf-8"))["identity"]
    mine = identity(stage="train", version=VERSION, dataset=dataset, config=lineage(run.config.train))
    payload = {"config": run.config.train, "launch": _launch(run.config.runner)}
    return [Item(mine, "", "", payload=payload)]


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Train to the end, or go on from the newest whole checkpoint of the same identity."""
    config: TrainConfig = item.payload["config"]
    out = folder(run_dir, item)
    settings = out / "train.json"
    if not reuse and out.exists():
        config = _restarted(config)
    write_json(settings, configs.to_dict(config))

    def follow(line: str) -> None:
        # the job prints one JSON object per logged step among other lines
        if line.startswith("{") and '"step"' in line:
            watch.tell("train", 0, json.loads(line)["step"], config.steps)

    launcher = [sys.executable, "-m", "accelerate.commands.launch", *item.payload["launch"]]
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
    run_job([*launcher, *job], follow)
    return [_row(run_dir, out, config)]


def _row(run_dir: Path, out: Path, config: TrainConfig) -> Row:
    final = out / checkpoint.name_of(config.steps)
    fault = checkpoint.damage(final)
    if fault is not None:
        raise RunError(f"training ended, but its checkpoint {final} is not whole: {fault}")
    names = (checkpoint.MARKER, *sorted(json.loads((final / checkpoint.MARKER).read_text(encoding="utf-8"))))
    last = log.read(out / log.NAME)[-1]
    scores: dict[str, float | None] = {
        name: float(last[name]) for name in ("loss", "loss_video", "loss_struct") if name in last
    }
    folder_name = final.relative_to(run_dir)
    return Row(
        files=tuple(str(folder_name / name) for name in names), scores=scores, facts={"folder": str(folder_name)}
    )


def folder(run_dir: Path, item: Item) -> Path:
    return run_dir / "checkpoints" / item.identity[:12]


def _launch(runner: RunnerConfig) -> list[str]:
    """Arguments of `accelerate launch`: a file of settings, or this machine with so many processes."""
    if runner.accelerate is not None:
        if not runner.accelerate.is_file():
            raise RunError(f"runner.accelerate: there is no file {runner.accelerate}")
        return ["--config_file", str(runner.accelerate.absolute())]
    import torch

    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    if runner.train_processes > 1:  # the launcher's name for several processes, on the CPU too (--cpu starts only one)
        return ["--multi_gpu", "--num_processes", str(runner.train_processes), *plain]
    return [*([] if torch.cuda.is_available() else ["--cpu"]), "--num_processes", "1", *plain]


def _restarted(config: TrainConfig) -> TrainConfig:
    values: dict[str, Any] = {**configs.to_dict(config), "on_mismatch": "restart"}
    return configs.build(TrainConfig, values)


STAGE = Stage("train", "checkpoints", plan, work, in_workers=False)
