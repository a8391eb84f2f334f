"""Old flow runs leave the server's database, with their logs and artifacts. Run folders are never touched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.logging import get_run_logger

from dualforce_model.config import ConfigError
from tasks.config import STAGES

OURS = ("pipeline", "retention", *(name.replace("_", "-") for name in STAGES))  # names of flows
WHAT = "Delete finished runs of DualForce from the server's database, never anything in a run folder."


@flow(name="retention", description=WHAT, flow_run_name="retention-{days}-days", persist_result=False)
def retention(days: float = 30) -> int:
    """Delete old finished runs from the server.

    Args:
        days: runs that ended longer ago than this go, with their logs and artifacts.
    """
    count = forget_runs(days)
    get_run_logger().info("%d runs that ended more than %g days ago are forgotten", count, days)
    return count


def forget_runs(days: float) -> int:
    """Delete runs that ended more than `days` ago, and what ran inside them; how many. Raises ConfigError."""
    if days < 0:
        raise ConfigError(f"days must be 0 or more, got {days:g}")
    before = datetime.now(UTC) - timedelta(days=days)
    count = 0
    with get_client(sync_client=True) as client:
        # what ran inside a deleted run stands alone afterwards, so the next look finds it
        while found := _ended(client, before):
            for run in found:
                for artifact in _artifacts(client, run):
                    client.delete_artifact(artifact)
                client.delete_flow_run(run)  # its task runs and states go with it, its logs a moment later
            count += len(found)
    return count


def _ended(client: SyncPrefectClient, before: datetime) -> list[UUID]:
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
        end_time=FlowRunFilterEndTime(before_=before),  # type: ignore[arg-type]
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(OURS)))
    return [run.id for run in client.read_flow_runs(flow_filter=ours, flow_run_filter=wanted, limit=200)]


def _artifacts(client: SyncPrefectClient, run: UUID) -> Iterator[UUID]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    while found := client.read_artifacts(artifact_filter=wanted, limit=200):
        yield from (artifact.id for artifact in found)
