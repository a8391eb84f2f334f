"""Slots of the server's limit `gpu`: more work than GPUs waits its turn. A shard takes one, a training one per process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from tasks.config import RunConfig
from tasks.devices import slots
from tasks.run import RunError

LIMIT = "gpu"
logger = logging.getLogger("dualforce.gpu")
LEASE_S = 120.0  # a killed holder's slots are free after it; a server that is away for less than it frees none


@contextmanager
def taken(config: RunConfig, stage: str) -> Iterator[None]:
    """Hold the GPUs of a shard while the block runs; on a server without the limit there is nothing to wait for.

    Acquiring costs seconds, so it is done per shard. Raises RunError when the limit is lower than what is asked for.
    """
    count = slots(config, stage)
    found = _limit() if count else None
    if found is None:
        yield
        return
    if found.limit < count:
        raise RunError(
            f"{stage} wants {count} GPUs at a time and the server's limit {LIMIT!r} is {found.limit}; "
            f"raise it with `dualforce deploy --gpus {count}` or lower runner.train_processes"
        )
    if found.active_slots + count > found.limit:
        logger.info(
            "%s waits for %d of %d GPUs, of which %d are taken (those of a killed run are free after %g s)",
            stage, count, found.limit, found.active_slots, LEASE_S,
        )  # fmt: skip
    # a server that is away for a while is no reason to end days of training
    with concurrency(LIMIT, occupy=count, strict=True, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False):
        yield


def _limit() -> GlobalConcurrencyLimitResponse | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            return None
