"""Flow runs whose process is gone: nobody ends them, so they stay Running for ever and cannot be retried.

The server's automation (`infra/automations`) finds them by their missing heartbeats, wherever they ran, within minutes;
`dualforce crashed` finds those of this machine at once, because every run leaves word which process does it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.states import Crashed

from dualforce_model.store import born
from tasks.away import only_shown
from tasks.launch import passing_on

PROCESS = "dualforce.process"  # label of a flow run: machine, process id, and when that process began
ALIVE = [StateType.RUNNING, StateType.CANCELLING]
PAGE = 200
T = TypeVar("T")


@contextmanager
def worked_on_here() -> Iterator[None]:
    """Leave word on the flow run that this process does it, and let a cancelled run end its jobs."""
    context = FlowRunContext.get()
    mine = context.flow_run if context else None
    if mine is not None and mine.parent_task_run_id is None:  # what runs inside another run ends with it
        with only_shown(), get_client(sync_client=True) as client:
            client.update_flow_run_labels(mine.id, {PROCESS: _me()})
    with passing_on():
        yield


def mark_crashed() -> Iterator[str]:
    """Mark runs of this machine whose process is gone, with all that ran inside them; yields a line for each."""
    with get_client(sync_client=True) as client:
        for run in _running(client):
            word = run.labels.get(PROCESS)
            if isinstance(word, str) and _gone(word):
                _, pid, _ = word.split()
                yield f"{run.name}: process {pid} is gone, marked as crashed"
                _crash(client, run, f"process {pid} on {socket.gethostname()} is gone")


def _crash(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    for child in _running(client, run.id):
        _crash(client, child, why)
    running = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=ALIVE)))
    inside = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task_run in _all(
        lambda offset: client.read_task_runs(flow_run_filter=inside, task_run_filter=running, limit=PAGE, offset=offset)
    ):
        client.set_task_run_state(task_run.id, Crashed(message=why), force=True)
    client.set_flow_run_state(run.id, Crashed(message=why), force=True)


def _running(client: SyncPrefectClient, parent: UUID | None = None) -> list[FlowRun]:
    """Runs that are said to be running: those inside `parent`, or those that are inside no other."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ALIVE)),
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]) if parent else None,
        parent_task_run_id=None if parent else FlowRunFilterParentTaskRunId(is_null_=True),
    )
    return _all(lambda offset: client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=offset))


def _all(page: Callable[[int], list[T]]) -> list[T]:
    """Every page, read before anything is changed."""
    found: list[T] = []
    while more := page(len(found)):
        found += more
    return found


def _me() -> str:
    return f"{socket.gethostname()} {os.getpid()} {born(os.getpid())}"


def _gone(word: str) -> bool:
    """Whether a process of this machine has ended; False for those of other machines, which we cannot see."""
    host, pid, began = word.split()
    return host == socket.gethostname() and began != born(int(pid))
