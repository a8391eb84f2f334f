"""One stage of a run folder, or of its store, with the engine alone: what the flows do, without Prefect around it."""

from __future__ import annotations

from typing import Any

from dualforce_model.store import ledger, sweep
from tasks import working_copy
from tasks.run import Run, lock
from tasks.shard import process, sort_out, split
from tasks.stages import STAGES


def do(run: Run, name: str, force: bool = False) -> list[dict[str, Any]]:
    """Bring a stage up to date; its rows."""
    stage, remote = STAGES[name], working_copy.remote_of(run)
    with lock(run.dir, name):
        sweep(run.dir / stage.folder, below=bool(stage.folder))
        working_copy.begin(run, remote, stage)
        todo, kept = sort_out(run, stage, stage.plan(run), force, remote)
        shards = split(run, todo if remote is None else working_copy.with_needs(run, stage, todo))
        for number, items in enumerate(shards):
            records = process(run, stage, items, force=force, remote=remote, log=lambda line: None)
            working_copy.save(run, remote, name, number, records)
        working_copy.finish(run, remote, name, kept, len(shards))
    return ledger.read(run.dir, name).to_dict("records")
