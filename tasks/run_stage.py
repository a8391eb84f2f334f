"""One stage of a run inside a Prefect flow: shards as task runs, then the ledger and the artifacts on the dashboard."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from dualforce_model.store import ledger, sweep
from tasks import gpu, quality, train, watch, working_copy
from tasks.artifacts import show_stage
from tasks.board import Bar, Training
from tasks.config import TRAININGS
from tasks.launch import JobStopped
from tasks.run import Run, RunError, lock
from tasks.runners import shards_of
from tasks.shard import Record, process, room_on_disk, sort_out, split, tally
from tasks.stage import Item, Stage
from tasks.stages import STAGES


class Shard:
    """What one task run is to do. Not a dataclass, because into those (and into tuples) task runners look for futures
    and make them anew, annotated as opaque or not; this travels as it is, to threads and to other machines.
    """

    def __init__(self, run: Run, items: list[Item], force: bool):
        self.run, self.items, self.force = run, items, force


def _worth_a_retry(task: Any, run: Any, state: Any) -> bool:
    # what a person has to mend first (a full disk, a missing stage) is not mended by trying again
    return not isinstance(state.result(raise_on_failure=False), RunError)


@task(
    task_run_name="{stage}-{number:04d}",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=_worth_a_retry,
    cache_policy=NO_CACHE,  # the identity of artifacts decides what is valid, not the arguments of a task
    persist_result=False,
)
def process_shard(stage: str, number: int, shard: Shard) -> dict[str, int]:
    """Do one shard of a stage and publish its part of the ledger. Returns the counts of its rows."""
    run, items, force = shard.run, shard.items, shard.force
    logger = get_run_logger()

    def progress(done: int) -> None:
        watch.tell(stage, number, done, len(items))

    def tell_of(clip: str) -> None:
        logger.info("%s %04d: %s", stage, number, clip)

    def judged(records: list[Record]) -> list[Record]:
        return quality.judge(records, run.config.quality) if stage == "quality" else records

    def save(records: list[Record]) -> None:
        with room_on_disk(run.dir):
            working_copy.save(run, remote, stage, number, judged(records))

    remote = working_copy.remote_of(run)
    saved = working_copy.saved(run, remote, stage, number)  # of an attempt that failed or whose machine went away
    tell: Any = {"log": tell_of, "progress": progress, "save": save}
    with gpu.taken(run.config, stage), shown(run, stage, number, items):
        records = judged(process(run, STAGES[stage], items, saved, force=force, remote=remote, **tell))
    save(records)
    long_job_ended(STAGES[stage], records)
    counts = tally(records)
    logger.info("%s %04d: %s", stage, number, ", ".join(f"{n} {what}" for what, n in counts.items()))
    return counts


class EndedEarly(Exception):
    """A long job ended before its time. What it saved is there, so that the next attempt goes on from it."""


def long_job_ended(stage: Stage, records: list[Record]) -> None:
    """Have Prefect try again what a long job (training, say) did not finish, unless it was asked to end or has to wait
    for a person.
    """
    for record in records if not stage.in_workers else ():
        if record["reason"] in (JobStopped.__name__, RunError.__name__):
            raise RunError(record["message"])
        if record["status"] == "failed" and record["retry"]:
            raise EndedEarly(record["message"])


@contextlib.contextmanager
def shown(run: Run, stage: str, number: int, items: list[Item]) -> Iterator[None]:
    """Show on the dashboard how the work of the block goes on."""
    with watch.heard_by(Bar(stage, number, run.dir).show):
        if stage not in TRAININGS:
            yield
            return
        training = Training(stage, train.folder(run.dir, items[0]))
        with watch.heard_by(training.show):
            yield
        training.look()


# one plan at a time: those of the five features would share one interpreter anyway, and their memory would add up
_planning = threading.Lock()


def run_stage(run: Run, name: str, force: bool = False) -> dict[str, int]:
    """Bring one stage of a run up to date; returns how many items were accepted, rejected, failed, and reused.

    Raises RunError when the stage can't run at all (nothing upstream, a full disk, the folder is in use).
    """
    logging.getLogger("dualforce").setLevel(logging.INFO)
    stage = STAGES[name]
    with lock(run.dir, name), working_copy.said_plainly():
        sweep(ledger.folder(run.dir, name))
        sweep(run.dir / stage.folder, below=bool(stage.folder))
        remote = working_copy.remote_of(run)
        with room_on_disk(run.dir):
            working_copy.begin(run, remote, stage)
        with _planning:
            todo, kept = sort_out(run, stage, stage.plan(run), force, remote)
        if remote is not None:
            todo = working_copy.with_needs(run, stage, todo)
        if name == "quality":
            kept = quality.judge_table(kept, run.config.quality)
        total = Counter(accepted=0, rejected=0, failed=0, reused=kept.num_rows)
        total.update(kept["status"].to_pylist())
        shards = split(run, todo)
        if kept.num_rows:
            watch.tell(name, len(shards), kept.num_rows, kept.num_rows)
        total.update(_do(run, name, shards, force))
        if shards:  # a worker that was killed left what it was writing, and another did its item
            sweep(run.dir / stage.folder, below=bool(stage.folder))
        with room_on_disk(run.dir):
            working_copy.finish(run, remote, name, kept, len(shards))
    show_stage(run, name, dict(total))
    if not stage.in_workers and total["failed"] and not total["accepted"] + total["rejected"]:
        # one clip in thousands may fail; the dataset, the training or the sample as a whole may not
        raise RunError(f"{name} failed: {ledger.read(run.dir, name, ['message'])['message'].iloc[0]}")
    return dict(total)


def _do(run: Run, name: str, shards: list[list[Item]], force: bool) -> Counter[str]:
    """All shards, wherever the configuration has them done; the counts of their rows."""
    total: Counter[str] = Counter()
    trouble: Exception | None = None
    if not shards:
        return total
    with shards_of(run, STAGES[name]) as (runner, run):
        futures = [
            runner.submit(process_shard, {"stage": name, "number": number, "shard": Shard(run, items, force)})
            for number, items in enumerate(shards)
        ]
        for number, future in enumerate(futures):
            try:
                total.update(future.result())
            except Exception as error:  # noqa: BLE001  (the other shards shall finish and be recorded first)
                trouble = error
            watch.tell(name, number, len(shards[number]), len(shards[number]))  # other machines tell us nothing
    if isinstance(trouble, EndedEarly):
        raise RunError(f"{name} failed: {trouble}") from trouble
    if trouble is not None:
        raise trouble
    return total
