"""Kill a training, resume it, and compare it with one that nobody killed; on a GPU, with what two of those differ by."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dualforce_model.bench._machine import surroundings
from dualforce_model.bench.verify import apart
from dualforce_model.model import from_pretrained
from dualforce_model.train import checkpoint
from dualforce_model.train.log import NAME, read

FREE = 5e-3  # relative: what a step's loss may move by where two undisturbed trainings happen to be equal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="run folder with metadata.parquet")
    parser.add_argument(
        "--config", default="small", help="settings of the training, as `dualforce_model.train` has them"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change some of them")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kill", type=int, nargs="+", default=[13, 37], help="steps after which it is killed")
    parser.add_argument("--every", type=int, default=10, help="steps from checkpoint to checkpoint")
    parser.add_argument("--out", type=Path, help="where the trainings go (default: a temporary folder)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Largest relative differences of losses (of any step) and weights (of any tensor, by norm) to the first training.

    `holds`: on a CPU all is equal to the bit; on a GPU the killed training is as near to the first as an undisturbed second.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="dualforce-resume-", dir=args.out) as folder:
        outs = {name: Path(folder) / name for name in ("first", "second", "killed")}
        for step in args.kill:
            _train(args, outs["killed"], step)
        for out in outs.values():
            _train(args, out, None)
        found = {name: _apart(outs["first"], outs[name]) for name in ("second", "killed")}
    noise, killed = found["second"], found["killed"]
    holds = all(killed[name] <= (0.0 if device.type == "cpu" else max(2 * noise[name], FREE)) for name in noise)
    return {
        **surroundings(device),
        "config": args.config,
        "steps": args.steps,
        "killed after steps": args.kill,
        "undisturbed twice": noise,
        "killed and resumed": killed,
        "holds": holds,
    }


def _train(args: argparse.Namespace, out: Path, kill: int | None) -> None:
    """Train into `out`, going on from what is there: to the end, or until step `kill` is told, then SIGKILL.

    Raises RuntimeError when the training ends otherwise.
    """
    settings = {"steps": args.steps, "checkpoint_every": args.every, "log_every": 1, "sample_every": 0}
    pairs = [*(f"{key}={value}" for key, value in settings.items()), *args.set]
    words = [sys.executable, "-m", "dualforce_model.train", "--config", args.config]
    words += ["--data", str(args.data), "--out", str(out), *(word for pair in pairs for word in ("--set", pair))]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True
    )
    assert process.stdout is not None
    with process:
        said = ""
        for line in process.stdout:
            said += line
            if kill is not None and line.startswith("{") and json.loads(line)["step"] >= kill:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != (0 if kill is None else -signal.SIGKILL):
        raise RuntimeError(f"training into {out} ended with exit code {process.returncode}:\n{said[-2000:]}")


def _apart(a: Path, b: Path) -> dict[str, float]:
    losses = [{row["step"]: row["loss"] for row in read(out / NAME) if "loss" in row} for out in (a, b)]
    if losses[0].keys() != losses[1].keys():
        raise RuntimeError(f"{a} and {b} have the losses of other steps")
    first, other = (from_pretrained(checkpoint.resolve(out) / "model").state_dict() for out in (a, b))
    return {
        "loss": max(abs(loss - losses[1][step]) / abs(loss) for step, loss in losses[0].items()),
        "weights": max(
            0.0 if torch.equal(other[name], value) else apart(other[name], value) for name, value in first.items()
        ),
    }
