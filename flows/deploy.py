"""Work pools and deployments on a running server, made from prefect.yaml."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dualforce_model.config import ConfigError
from flows import server

POOLS = ("cpu", "gpu")


def deploy() -> Iterator[str]:
    """Make what is missing and bring the rest up to date; yields a line for each. Raises ConfigError without a server."""
    api = os.environ.get("PREFECT_API_URL", "")
    if not api or not server.healthy(api):
        raise ConfigError(f"no Prefect server answers{' at ' + api if api else ''}; start one with `dualforce up`")
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        there = {pool.name for pool in client.read_work_pools(limit=200)}
        for name in POOLS:
            if name not in there:
                client.create_work_pool(WorkPoolCreate(name=name, type="process"))
            yield f"work pool {name}"
    if server.prefect("--no-prompt", "deploy", "--all") != 0:
        raise ConfigError("prefect deploy failed; its message is above")
    yield "deployments of prefect.yaml"
