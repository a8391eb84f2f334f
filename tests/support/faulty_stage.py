"""A stage for tests whose work goes wrong as long as a file says so; in a module that worker processes import by name."""

from __future__ import annotations

import hashlib
import json
import time
from functools import partial
from pathlib import Path

from dualforce_model.store import ledger, publish, sweep
from tasks import shard
from tasks.config import RunConfig, RunnerConfig
from tasks.run import Run
from tasks.stage import Item, Row, Stage

TROUBLE = "trouble.json"  # {"item": "raise" | "hang" | "hang once"}


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    trouble = run_dir / TROUBLE
    what = json.loads(trouble.read_text()).get(item.source) if trouble.exists() else None
    if what == "raise":
        raise IndexError("list index out of range")
    once = run_dir / f"hung-{item.source}"
    if what == "hang" or (what == "hang once" and not once.exists()):
        once.touch()
        time.sleep(600)
    with publish(run_dir / "out" / item.source) as temporary:
        time.sleep(0.005)
        temporary.write_bytes(hashlib.sha256(item.source.encode()).digest() * 100)
    return [Row(files=(f"out/{item.source}",), scores={"length": float(len(item.source))})]


STAGE = Stage(
    "faulty", "out", lambda run: [Item(f"id-{n}", str(n), f"clip-{n:03d}") for n in range(200)], work, "clips"
)


def bring_up_to_date(run_dir: Path, timeout_s: float = 600.0) -> list[shard.Record]:
    """As a stage does it, with real worker processes, without Prefect; the rows."""
    run = Run(run_dir, RunConfig(runner=RunnerConfig(workers=2, shard_size=100, clip_timeout_s=timeout_s)))
    run_dir.mkdir(exist_ok=True)
    sweep(run_dir)
    ledger.begin(run_dir, STAGE.name)
    todo, kept = shard.sort_out(run, STAGE, STAGE.plan(run))
    for number, items in enumerate(shard.split(run, todo)):
        save = partial(ledger.write_part, run_dir, STAGE.name, number)
        save(shard.process(run, STAGE, items, log=lambda line: None, save=save))
    sweep(run_dir)
    ledger.finish(run_dir, STAGE.name, kept)
    return ledger.table(run_dir, STAGE.name).to_pylist()


def assert_same(ours: Path, theirs: Path) -> None:
    """Equal rows, what may differ aside, and equal bytes."""
    mine, other = (
        ledger.read(run, STAGE.name).drop(columns=list(ledger.VOLATILE)).to_dict("records") for run in (ours, theirs)
    )
    assert len(mine) == 200
    assert json.dumps(mine, default=list) == json.dumps(other, default=list)
    files, others = ({p.name: p.read_bytes() for p in (run / "out").iterdir()} for run in (ours, theirs))
    assert sorted(files) == sorted(others)
    assert files == others
