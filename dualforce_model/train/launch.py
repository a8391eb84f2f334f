"""accelerate's launcher, answering with the training's own exit code instead of 1.

    python -m dualforce_model.train.launch --config_file infra/accelerate/ddp.yaml -m dualforce_model.train ...

takes what `accelerate launch` takes. One process is not started but become, so signals reach it; several are told of a
SIGTERM by the launcher, which then waits for them for half a minute and kills those that are still there.
"""

from __future__ import annotations

import os
import signal
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from accelerate.commands import launch
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing import api as elastic
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dualforce_model.train.__main__ import FINISHED, STOPPED, leave

_ranks: list[subprocess.Popen[bytes]] = []
_start_rank = elastic.get_subprocess_handler  # type: ignore[attr-defined]


def main(arguments: list[str] | None = None) -> int:
    """The exit code of the first process that failed; after SIGTERM what the processes ended with."""
    launch.simple_launcher = _become  # accelerate's own would stay in between
    # told to end, torch's launcher does not say how its processes ended
    elastic.get_subprocess_handler = _noted  # type: ignore[attr-defined]
    try:
        launch.launch_command(launch.launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return _code(failure.exitcode)
    except subprocess.CalledProcessError as error:
        return _code(error.returncode)
    except SignalException as told:
        codes = [_code(-signal.SIGKILL if (code := rank.poll()) is None else code) for rank in _ranks]
        return _together(codes) if codes and told.sigval == signal.SIGTERM else 128 + told.sigval
    return 0


def _together(codes: Sequence[int]) -> int:
    """One code for all: 75 or 0 only if no process failed; the training's own code rather than that of a signal."""
    failed = [code for code in codes if code not in (FINISHED, STOPPED)]
    return min(failed, default=max(codes))


def _noted(*given: Any, **named: Any) -> Any:
    started = _start_rank(*given, **named)
    _ranks.append(started.proc)
    return started


def _become(given: Namespace) -> None:
    command, environment = prepare_simple_launcher_cmd_env(given)
    os.execvpe(command[0], command, environment)  # noqa: S606  (a list of arguments, no shell)


def _code(code: int) -> int:
    """As a shell would say it: 128 + the signal that ended a process."""
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    leave(main())
