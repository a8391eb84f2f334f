"""How fast stages 2 to 5 are on this machine: the same engine and workers as in the flows, without Prefect around it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dualforce_model.features import FEATURES
from dualforce_model.store import ledger
from tasks import quality
from tasks.pool import shared
from tasks.run import Run
from tasks.shard import process, split
from tasks.stages import STAGES

TIMED: tuple[tuple[str, ...], ...] = (("face_crop",), ("quality",), tuple(FEATURES), ("metadata",))


def measure(run: Run) -> dict[str, Any]:
    """Seconds per stage and video seconds per second of wall time, worker start included, on a fresh run folder."""
    _stage(run, "source")
    shared(run.config.runner.processes).close()  # the timed stages pay for starting their workers
    sources = ledger.read(run.dir, "source")
    readable = sources[sources["status"] == "accepted"]
    video_seconds = sum(ledger.facts(row)["probe"]["duration_s"] for row in readable.to_dict("records"))
    seconds: dict[str, float] = {}
    begun = time.monotonic()
    for group in TIMED:
        start = time.monotonic()
        with ThreadPoolExecutor(len(group)) as threads:  # the features side by side, as in the pipeline
            list(threads.map(lambda name: _stage(run, name), group))
        seconds["features" if len(group) > 1 else group[0]] = round(time.monotonic() - start, 3)
    wall = time.monotonic() - begun
    pids = shared(run.config.runner.processes).pids()
    return {
        "video_seconds_per_second": round(video_seconds / wall, 2),
        "video_seconds": round(video_seconds, 2),
        "wall_seconds": round(wall, 2),
        "stage_seconds": seconds,
        "peak_worker_mib": [round(_peak_bytes(pid) / 2**20) for pid in pids],
        "workers": run.config.runner.processes,
        "cores": len(os.sched_getaffinity(0)),
        "sources": len(sources),
        "clips": len(ledger.read(run.dir, "face_crop")),
        "accepted": int((ledger.read(run.dir, "quality")["status"] == "accepted").sum()),
    }


def _stage(run: Run, name: str) -> None:
    shards: Iterable[list[Any]] = split(run, STAGES[name].plan(run)) or [[]]
    for number, items in enumerate(shards):
        records = process(run, STAGES[name], items, log=lambda line: None)
        if name == "quality":
            records = quality.judge(records, run.config.quality)
        ledger.write_part(run.dir, name, number, records)


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
