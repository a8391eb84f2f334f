"""What a server needs to run the workflow: pools, the limit of GPUs, automations and the deployments of prefect.yaml."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import yaml

from dualforce_model.config import ConfigError
from flows import server
from tasks.gpu import LIMIT

POOLS = ("cpu", "gpu")
AUTOMATIONS = server.ROOT / "infra" / "automations"


def deploy(gpus: int | None = None) -> Iterator[str]:
    """Make what is missing and bring the rest up to date; yields a line for each. Raises ConfigError without a server.

    The limit of GPUs is set to `gpus`; without it, a limit that is there stays, and a new one counts this machine's.
    """
    api = os.environ.get("PREFECT_API_URL", "")
    if not api or not server.healthy(api):
        raise ConfigError(f"no Prefect server answers{' at ' + api if api else ''}; start one with `dualforce up`")
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for name in POOLS:
            yield _pool(client, name)
        yield _limit(client, gpus)
        for automation in automations():
            yield _automation(client, automation)
    if server.prefect("--no-prompt", "deploy", "--all") != 0:
        raise ConfigError("prefect deploy failed; its message is above")
    yield "deployments of prefect.yaml"


def _pool(client: Any, name: str) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    return f"work pool {name}"


def _limit(client: Any, gpus: int | None) -> str:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    try:
        count = client.read_global_concurrency_limit_by_name(LIMIT).limit
        if gpus is not None and gpus != count:
            client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(limit=gpus))
            count = gpus
    except ObjectNotFound:
        count = gpus or _gpus_here() or 1
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=count))
    return f"limit {LIMIT}: {count} at a time"


def _gpus_here() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in said.splitlines())


def automations() -> list[dict[str, Any]]:
    """The shipped automations, as they stand in their files."""
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(AUTOMATIONS.glob("*.yaml"))]


def _automation(client: Any, wanted: dict[str, Any]) -> str:
    from prefect.events.schemas.automations import AutomationCore

    core = AutomationCore.model_validate(wanted)
    there = client.read_automations_by_name(core.name)
    if not there:
        client.create_automation(core)
    elif _said(there[0]) != _said(core):
        # whoever paused it on the dashboard meant it
        client.update_automation(there[0].id, core.model_copy(update={"enabled": there[0].enabled}))
    return f"automation {core.name}"


def _said(automation: Any) -> dict[str, Any]:
    """What an automation says, without what the server adds to it."""
    said = automation.model_dump(mode="json", exclude_unset=False)
    return {key: _bare(said[key]) for key in ("description", "trigger", "actions")}


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bare(part) for key, part in value.items() if key != "id"}
    if isinstance(value, list):
        parts = [_bare(part) for part in value]
        return sorted(parts) if all(isinstance(part, str) for part in parts) else parts
    return value
