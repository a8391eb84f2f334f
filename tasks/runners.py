"""Where the shards of a stage are done: in threads of this process, or by the workers of a Dask or Ray cluster.

A shard brings its own worker processes (`tasks.pool`) wherever it runs, so the results are the same everywhere. What has
to stay in one place does: downloads share their manners towards each host; captions, the dataset, training and generation
are one long job each on the machine whose Prefect worker took the flow.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks.config import RunnerConfig
from tasks.run import Run, RunError
from tasks.stage import Stage

LOCAL_WORKERS = 2  # of a cluster that is started here for want of an address: a rehearsal on one machine
_starting = threading.Lock()
_dask_cluster: Any = None


@contextlib.contextmanager
def shards_of(run: Run, stage: Stage) -> Iterator[tuple[TaskRunner[Any], Run]]:
    """The started task runner for a stage, and the run as its shards shall have it. Raises RunError."""
    config = run.config.runner
    if config.kind == "threads" or not stage.in_workers or stage.spread is not None:
        threads: TaskRunner[Any] = ThreadPoolTaskRunner(
            max_workers=2
        )  # the second fills the workers while the first ends
        with threads:
            yield threads, run
        return
    if not get_current_settings().api.url:
        raise RunError(
            f"runner.kind={config.kind} needs a Prefect server that all its workers reach: start one with "
            "`dualforce up` and set PREFECT_API_URL"
        )
    with _dask(config) if config.kind == "dask" else _ray(config) as (runner, processes):
        yield runner, replace(run, config=replace(run.config, runner=replace(config, workers=processes)))


@contextlib.contextmanager
def _dask(config: RunnerConfig) -> Iterator[tuple[TaskRunner[Any], int]]:
    """Its workers each do as many shards at a time as they have threads, all with the machine's one set of processes."""
    try:
        from distributed import LocalCluster
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise RunError(f"runner.kind=dask: {error}; pip install -c constraints.txt -e '.[dask]'") from error
    global _dask_cluster
    with _starting:
        if not config.address and _dask_cluster is None:  # one for all stages of this process; ends with it
            _dask_cluster = LocalCluster(
                n_workers=LOCAL_WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0
            )
    processes = config.workers if config.address else _share(config)
    with DaskTaskRunner(address=config.address or _dask_cluster.scheduler_address) as runner:
        try:
            assert runner.client  # connects
        except (OSError, ValueError) as error:
            raise RunError(f"runner.address: no Dask scheduler answers at {config.address}: {error}") from error
        yield runner, processes


@contextlib.contextmanager
def _ray(config: RunnerConfig) -> Iterator[tuple[TaskRunner[Any], int]]:
    """A shard asks Ray for as many CPUs as it starts processes: `runner.workers`, else all of the smallest machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise RunError(f"runner.kind=ray: {error}; pip install -c constraints.txt -e '.[ray]'") from error
    local: dict[str, Any] = {
        "num_cpus": LOCAL_WORKERS * _share(config), "include_dashboard": False, "object_store_memory": 128 << 20,
        "logging_level": "warning",
    }  # fmt: skip
    with _starting:
        if not ray.is_initialized():  # one connection for all stages of this process, which side by side would fight
            try:
                arguments = {} if config.address else local
                _for_good(lambda: ray.init(config.address or None, log_to_driver=False, **arguments))
            except (ConnectionError, ValueError, RuntimeError) as error:
                hint = "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
                raise RunError(
                    f"runner.address: no Ray cluster answers at {config.address}: {error}; {hint}"
                ) from error
    if config.address:
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        processes = config.workers or min(count for count in cores if count)
    else:
        processes = _share(config)
    with remote_options(num_cpus=processes), RayTaskRunner() as runner:
        yield runner, processes


def _share(config: RunnerConfig) -> int:
    """Processes of each worker of a cluster on this machine alone."""
    return max(1, config.processes // LOCAL_WORKERS)


def _for_good(start: Callable[[], Any]) -> None:
    """Call it in a thread that lives as long as the process: Linux ends what Ray starts with the thread that started it."""
    done: Future[Any] = Future()

    def live() -> None:
        try:
            done.set_result(start())
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
            done.set_exception(error)
        threading.Event().wait()

    threading.Thread(target=live, name="ray", daemon=True).start()
    done.result()
