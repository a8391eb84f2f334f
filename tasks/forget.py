"""Taking a source, a person's video or a clip out of a run for good: denied first, then every artifact removed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from dualforce_model.download import deny
from dualforce_model.store import ledger, publish
from dualforce_model.store.remote import Remote
from tasks import working_copy
from tasks.config import STAGES, TRAININGS
from tasks.download import FOLDER
from tasks.run import Run, lock
from tasks.text import FOLDER as TEXTS

OF_ALL = ("metadata", *TRAININGS)  # their files belong to all clips
PAGES = ("report", "download.json")  # made of what was there; the next run makes them again


def forget(run: Run, ids: Iterable[str]) -> dict[str, Any]:
    """Deny `ids` (video, source or clip ids, or names in the ledger) and remove what the run holds of them.

    Returns `denied`, `files` (removed, relative to the run folder), `bytes`, `rows` (ledger rows removed by stage),
    `dataset_rows`, and `left`: checkpoints that had seen it, which only a new training is rid of. Files of a local input
    folder are the user's and stay. Killed half-way, it can be done again.
    """
    wanted = frozenset(ids)
    with lock(run.dir), working_copy.changed(run, STAGES) as remote:
        mine = {stage: _rows(run.dir, stage, wanted) for stage in STAGES}
        names = {row["source"] for rows in mine.values() for row in rows if not _only_clip(row, wanted)} - {""}
        known = wanted | names
        deny.add(run.dir, known)
        if remote is not None:  # first of all here too
            remote.write(deny.NAME, run.dir / deny.NAME)
        captions = _captions_of_others(run.dir, wanted)
        files = _files(run, mine, known, captions)
        size = 0
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                size += (run.dir / file).stat().st_size
                (run.dir / file).unlink()
        stored = []
        if remote is not None:
            stored = _stored(remote, mine, captions)
            remote.remove(stored)
        removed = {stage: _drop(run.dir, stage, wanted) for stage, rows in mine.items() if rows}
        return {
            "denied": sorted(known),
            "files": files + stored,
            "bytes": size,
            "rows": removed,
            "dataset_rows": _drop_from_dataset(run.dir, known),
            "left": sorted(str(p.relative_to(run.dir)) for p in run.checkpoints.glob("*") if p.is_dir()),
        }


def _captions_of_others(run_dir: Path, wanted: frozenset[str]) -> frozenset[str]:
    """Embeddings that clips name which stay. All others go: they say what is seen of those who were here, too."""
    rows = ledger.read(run_dir, "text").to_dict("records")
    return frozenset(name for row in rows if not _meant(row, wanted) for name, *_ in json.loads(row["files"]))


def _stored(remote: Remote, mine: dict[str, list[dict[str, Any]]], captions: frozenset[str]) -> list[str]:
    """What shared storage holds of it, in every version, and the dataset's table, which the next run makes again."""
    own = {stage: rows for stage, rows in mine.items() if stage not in OF_ALL}
    named = {name for rows in own.values() for row in rows for name, *_ in json.loads(row["files"])}
    clips = {row["clip_id"] for rows in mine.values() for row in rows} - {""}
    if mine["metadata"]:
        named.add("metadata.parquet")
    found = []
    for key in remote.objects():
        name = key.partition("/")[2].rpartition(".")[0]  # files/<name>.<sha256>
        mentioned = name in named or Path(name).name.partition(".")[0] in clips
        if name not in captions and (mentioned or name.startswith(f"{TEXTS}/")):
            found.append(key)
    return sorted(found)


def _rows(run_dir: Path, stage: str, wanted: frozenset[str]) -> list[dict[str, Any]]:
    rows = ledger.read(run_dir, stage).to_dict("records") if ledger.exists(run_dir, stage) else []
    return [row for row in rows if _meant(row, wanted)]


def _meant(row: dict[str, Any], wanted: frozenset[str]) -> bool:
    return deny.denies(wanted, row["source"], row["source_id"], row["clip_id"])


def _only_clip(row: dict[str, Any], wanted: frozenset[str]) -> bool:
    """Whether the row is meant by its clip alone, so that its source's other clips stay."""
    return not deny.denies(wanted, row["source"], row["source_id"])


def _files(
    run: Run, mine: dict[str, list[dict[str, Any]]], known: frozenset[str], captions: frozenset[str]
) -> list[str]:
    found = set((run.dir / TEXTS).glob("*.safetensors"))
    for stage, rows in mine.items():
        if stage in OF_ALL:
            continue
        for row in rows:
            found |= {run.dir / name for name, *_ in json.loads(row["files"])}
            if row["clip_id"]:
                found |= set(run.clips.glob(f"{row['clip_id']}.*"))
                found |= set(run.features.glob(f"*/{row['clip_id']}.safetensors"))
                found |= set(run.samples.glob(f"{row['clip_id']}.*"))
    for folder in (run.dir / FOLDER).glob("*"):
        for key in {path.name.partition(".")[0] for path in folder.glob("*")}:
            if deny.denies(known, f"{folder.name}/{key}"):
                found |= set(folder.glob(f"{key}.*"))  # unfinished files too
    found |= {path for name in PAGES for path in [run.dir / name, *(run.dir / name).rglob("*")]}
    return sorted({str(path.relative_to(run.dir)) for path in found if path.is_file()} - captions)


def _drop(run_dir: Path, stage: str, wanted: frozenset[str]) -> int:
    records = ledger.read(run_dir, stage).to_dict("records")
    kept = [record for record in records if not _meant(record, wanted)]
    ledger.rewrite(run_dir, stage, kept)
    return len(records) - len(kept)


def _drop_from_dataset(run_dir: Path, known: frozenset[str]) -> int:
    """Rows out of metadata.parquet. The next run computes splits and statistics anew."""
    path = run_dir / "metadata.parquet"
    if not path.exists():
        return 0
    table = pq.read_table(path)
    frame: pd.DataFrame = table.select(["source", "source_id", "clip_id"]).to_pandas()
    keep = [not deny.denies(known, *row) for row in frame.itertuples(index=False)]
    if all(keep):
        return 0
    with publish(path) as temporary:
        pq.write_table(table.filter(keep), temporary)
    return len(keep) - sum(keep)
