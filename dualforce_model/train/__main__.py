"""`python -m dualforce_model.train --config C.yaml --data RUN_DIR --out CHECKPOINTS`, also under `accelerate launch`.

Exit codes: 0 finished · 1 a checkpoint could not be written · 2 bad input or config · 3 diverged · 75 stopped by SIGTERM,
with a checkpoint to go on from. `accelerate launch` answers 1 for all of these, `train.launch` with the code itself.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.errors import Verdict
from dualforce_model.train import devices
from dualforce_model.train.config import TrainConfig

FINISHED, UNSAVED, BAD_INPUT, DIVERGED, STOPPED = 0, 1, 2, 3, 75


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dualforce_model.train", description="Train on a prepared run folder."
    )
    parser.add_argument(
        "--config", type=Path, help="YAML or JSON with keys of TrainConfig, or a shipped name (tiny, small, mova_lite)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key of the config")
    parser.add_argument("--data", type=Path, required=True, help="run folder with metadata.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints; goes on from what is there")
    parser.add_argument("--supervised", action="store_true", help="stop, with a checkpoint, when standard input closes")
    parser.add_argument(
        "--gpu-wait",
        type=float,
        default=devices.WAIT_S,
        metavar="SECONDS",
        help="how long to wait for a GPU that is in use",
    )
    given = parser.parse_args(arguments)
    try:
        config = strict.load(TrainConfig, given.config, given.set)
        from dualforce_model.train.loop import train
        from dualforce_model.train.saver import SaveError
        from dualforce_model.train.watch import DivergedError

        try:
            with devices.held(devices.mine(), f"training into {given.out}", _say, given.gpu_wait):
                outcome = train(config, given.data, given.out, _say, given.supervised)
        except DivergedError as error:
            print(f"diverged: {error}", file=sys.stderr)
            return DIVERGED
        except SaveError as error:
            print(f"error: {error}", file=sys.stderr)
            return UNSAVED
    except (Verdict, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    _say(f"{outcome.state} at step {outcome.step}: {outcome.checkpoint}")
    return STOPPED if outcome.state == "stopped" else FINISHED


def _say(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # who listened was killed; the last checkpoint is written all the same
        print(message, flush=True)


def leave(code: int) -> NoReturn:
    """End this process with `code`, once nothing is left to be written.

    Without taking the interpreter down first: the threads of gloo and of others live on until the process ends (FSDP2 holds
    on to its groups, destroyed or not), and where one of them lets go of a tensor meanwhile, a finished training ends by
    SIGABRT (pytorch pull request 179291).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
