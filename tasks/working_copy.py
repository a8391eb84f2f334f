"""A run folder as the working copy of shared storage (`runner.store`): what is pulled before a stage, and put after it.

Without a store all of this does nothing: the run folder itself is the truth.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from dualforce_model.download import deny
from dualforce_model.features import FEATURES
from dualforce_model.store import ledger
from dualforce_model.store.remote import NotInStore, Remote, Stored, StoreError, files_of
from tasks.config import STAGES, RunConfig, RunnerConfig
from tasks.run import MANIFEST, Run, RunError, lock, open_run
from tasks.stage import Item, Stage


def remote_of(run: Run) -> Remote | None:
    """The run's shared storage, if it has one. Raises RunError when its Secret block can't be used."""
    config = run.config.runner
    if not config.store:
        return None
    if not config.store_secret:
        return Remote(config.store)
    from prefect.blocks.system import Secret

    try:
        found = Secret.load(config.store_secret).get()  # type: ignore[union-attr]
        return Remote(config.store, dict(json.loads(found) if isinstance(found, str) else found))
    except (ValueError, TypeError) as error:  # never with its content
        raise RunError(
            f"runner.store_secret: no Secret block {config.store_secret!r} with a JSON object of options"
        ) from error


@contextlib.contextmanager
def said_plainly() -> Iterator[None]:
    """Turn trouble with the store that outlived its retries into a RunError."""
    try:
        yield
    except (NotInStore, StoreError) as error:
        raise RunError(str(error)) from error


def begin(run: Run, remote: Remote | None, stage: Stage) -> None:
    """Before a stage: its ledger in order, and those before it; the files that its plan opens."""
    if remote is None:
        ledger.begin(run.dir, stage.name)
        return
    # features may run side by side, each busy with its own
    others = () if stage.name not in FEATURES else FEATURES.keys() - {stage.name}
    _pull(run, remote, [name for name in STAGES if name not in others])
    remote.claim(run.dir, stage.name)
    ledger.begin(run.dir, stage.name)
    remote.push(run.dir, stage.name)
    remote.fetch(run.dir, _all_files(run, stage.plans_from))


def finish(run: Run, remote: Remote | None, stage: str, kept: pa.Table, shards: int) -> None:
    """After a stage: one ledger of `kept` and of what its shards saved. Raises RunError when another run was in between."""
    if remote is not None:
        remote.pull(run.dir, [stage])
        if not all(ledger.part_path(run.dir, stage, shard).exists() for shard in range(shards)):
            raise RunError(f"another run changes {stage} in {remote.url} at the same time; let it end, then run again")
    ledger.finish(run.dir, stage, kept)
    if remote is not None:
        remote.push(run.dir, stage)


@contextlib.contextmanager
def changed(run: Run, stages: Sequence[str]) -> Iterator[Remote | None]:
    """Around a change of the ledgers of `stages` that no stage makes: from the store, and back to it."""
    with said_plainly():
        remote = remote_of(run)
        if remote is not None:
            _pull(run, remote, STAGES)
        yield remote
        if remote is not None:
            for stage in stages:
                remote.push(run.dir, stage)


def _pull(run: Run, remote: Remote, stages: Iterable[str]) -> None:
    """Take over what the store's ledgers say, and its deny-list; note there how the run was last set."""
    remote.pull(run.dir, stages)
    with TemporaryDirectory() as folder:
        theirs = Path(folder, deny.NAME)
        known = deny.parse(theirs) if remote.read(deny.NAME, theirs) else frozenset()
    deny.add(run.dir, known)
    if deny.read(run.dir) - known:
        remote.write(deny.NAME, run.dir / deny.NAME)
    remote.write(MANIFEST, run.dir / MANIFEST)


def with_needs(run: Run, stage: Stage, items: Sequence[Item]) -> list[Item]:
    """Items that know the files they will read, so that any machine can fetch them."""
    if not items:
        return []
    of: dict[str, list[Stored]] = defaultdict(list)  # by clip, or by source of what is no clip yet
    for name in stage.reads:
        for source, clip_id, files in _accepted(run, name):
            of[clip_id or source] += files
    for_all = _all_files(run, (*stage.plans_from, *stage.reads_all))
    earlier = _all_files(run, [stage.name]) if stage.takes_up else []
    done = []
    for item in items:
        # a listed clip is a piece of the video above it: `hdtf/<video>/<clip>`
        names = [item.clip_id] if item.clip_id else [item.source, *map(str, PurePosixPath(item.source).parents)]
        mine = [file for name in names for file in of.get(name, ())]
        done.append(replace(item, needs=(*for_all, *([] if item.redo else earlier), *mine)))
    return done


def fetch_clips(run: Run, clips: Sequence[str]) -> None:
    """Have these clips at hand, on whichever machine they were made."""
    remote = remote_of(run)
    if remote is not None:
        found = [files for _, clip_id, files in _accepted(run, "face_crop") if clip_id in clips]
        remote.fetch(run.dir, [file for files in found for file in files])


def _all_files(run: Run, stages: Iterable[str]) -> list[Stored]:
    # clips of one caption name the same file
    return list(dict.fromkeys(file for name in stages for _, _, files in _accepted(run, name) for file in files))


def _accepted(run: Run, stage: str) -> Iterator[tuple[str, str, list[Stored]]]:
    rows = ledger.read(run.dir, stage, ["source", "clip_id", "status", "files"])
    for row in rows[rows["status"] == "accepted"].itertuples(index=False):
        yield row.source, row.clip_id, files_of(row.files)


def saved(run: Run, remote: Remote | None, stage: str, shard: int) -> list[dict[str, Any]]:
    """The rows of a shard that an earlier attempt of this run saved."""
    if remote is None:
        return ledger.part(run.dir, stage, shard)
    with TemporaryDirectory() as folder:
        path = ledger.part_path(Path(folder), stage, shard)
        remote.read(str(path.relative_to(folder)), path)
        return ledger.part(Path(folder), stage, shard)


def save(run: Run, remote: Remote | None, stage: str, shard: int, records: list[dict[str, Any]]) -> None:
    """Save the rows of a shard where the truth is: the files that they name are there already."""
    if remote is None:
        ledger.write_part(run.dir, stage, shard, records)
        return
    with TemporaryDirectory() as folder:
        path = ledger.part_path(Path(folder), stage, shard)
        ledger.write_part(Path(folder), stage, shard, records)
        remote.write(str(path.relative_to(folder)), path)


def pull(url: str, run_dir: Path, secret: str = "", files: bool = True) -> Run:
    """Make a run folder of a run in shared storage: its settings and ledgers, and all its files or none. Raises RunError."""
    config = RunnerConfig(store=url, store_secret=secret)
    run_dir = run_dir.absolute()
    with lock(run_dir), said_plainly():
        if (run_dir / MANIFEST).exists() and open_run(run_dir).config.runner.store != url:
            raise RunError(f"{run_dir} is not a working copy of {url}; name an empty folder")
        remote = remote_of(Run(run_dir, RunConfig(runner=config)))
        assert remote is not None
        if not remote.read(MANIFEST, run_dir / MANIFEST):
            raise RunError(f"there is no run at {url}")
        run = open_run(run_dir)
        _pull(run, remote, STAGES)
        if files:
            remote.fetch(run_dir, _all_files(run, ledger.stages(run_dir)))
    return run
