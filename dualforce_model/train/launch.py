"""accelerate's launcher, answering with the training's own exit code instead of 1.

    python -m dualforce_model.train.launch --config_file infra/accelerate/ddp.yaml -m dualforce_model.train ...

takes what `accelerate launch` takes. One process is not started but become, so signals reach it; several are told of a
SIGTERM by the launcher, which then waits for them for half a minute.
"""

from __future__ import annotations

import os
import signal
import subprocess
from argparse import Namespace

from accelerate.commands import launch
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dualforce_model.train.__main__ import STOPPED, leave


def main(arguments: list[str] | None = None) -> int:
    """The exit code of the first process that failed; 75 after SIGTERM."""
    launch.simple_launcher = _become  # accelerate's own would stay in between
    try:
        launch.launch_command(launch.launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return _code(failure.exitcode)
    except subprocess.CalledProcessError as error:
        return _code(error.returncode)
    except SignalException as told:
        return STOPPED if told.sigval == signal.SIGTERM else 128 + told.sigval
    return 0


def _become(given: Namespace) -> None:
    command, environment = prepare_simple_launcher_cmd_env(given)
    os.execvpe(command[0], command, environment)  # noqa: S606  (a list of arguments, no shell)


def _code(code: int) -> int:
    """As a shell would say it: 128 + the signal that ended a process."""
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    leave(main())
