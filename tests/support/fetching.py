"""The download and source stages of a run folder with the engine alone: what the flows do, without Prefect around it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import engine

from dualforce_model import config as configs
from tasks import obtained
from tasks.config import RunConfig
from tasks.run import Run, create

QUICK = {"timeout_s": 1.0, "backoff_s": 0.05, "max_backoff_s": 0.5, "breaker_pause_s": 0.2, "keep_free_gib": 0.0}


def run_of(folder: Path, links: Path, host: str, shard_size: int = 256, **download: Any) -> Run:
    settings = {**QUICK, "lists": {"links": str(links)}, "allow_hosts": [host], **download}
    values = {"download": settings, "runner": {"workers": 1, "shard_size": shard_size}}
    return create(folder, configs.build(RunConfig, values))


def do(run: Run, stage: str = "download", force: bool = False) -> list[dict]:
    """Bring a stage up to date; its rows."""
    rows = engine.do(run, stage, force)
    obtained.count(run)
    return rows


if __name__ == "__main__":  # a run of its own, to be killed
    arguments = json.loads(sys.argv[1])
    do(run_of(Path(arguments.pop("folder")), Path(arguments.pop("links")), **arguments))
