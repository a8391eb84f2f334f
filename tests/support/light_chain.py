"""The workflow with light stages in the place of the real ones, for hundreds of kills: the command line, the flows, the
engine, worker processes, ledger and publishing are the real ones, only the work on an item is a short sleep and a file.

`python light_chain.py run …` is `dualforce run …` with them.
"""

from __future__ import annotations

import hashlib
import sys
import time
from functools import partial
from pathlib import Path

from dualforce_model.store import identity, publish, write_json
from tasks.run import Run
from tasks.stage import Item, Row, Stage, upstream
from tasks.stages import STAGES

SOURCES = 40
FEATURES = ("flame", "audio_features", "reference")
NAMES = ("source", "face_crop", *FEATURES, "metadata")
WORK_S = 0.02


def sources(run: Run) -> list[Item]:
    return [Item(identity(source=n), f"v{n:02d}", f"v{n:02d}.mp4") for n in range(SOURCES)]


def after(stage: str, before: str, run: Run) -> list[Item]:
    rows = upstream(run, before).itertuples(index=False)
    return [Item(identity(stage=stage, of=row.identity), row.source_id, row.source, row.clip_id) for row in rows]


def look(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    time.sleep(WORK_S / 4)
    if item.source_id == "v07":
        raise ValueError("not a video")  # as one in every folder
    return [Row(facts={"content": item.identity})]


def crop(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Two clips of each source, each of two files."""
    rows = []
    for n in range(2):
        clip = f"{item.source_id}-s0t{n}"
        names = tuple(f"clips/{clip}{ending}" for ending in (".mp4", ".json"))
        for name in names:
            with publish(run_dir / name) as temporary:
                time.sleep(WORK_S / 2)
                temporary.write_bytes(hashlib.sha256(f"{item.identity}{name}".encode()).digest() * 500)
        rows.append(Row(clip_id=clip, files=names))
    return rows


def extract(feature: str, item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    name = f"features/{feature}/{item.clip_id}.safetensors"
    clip = (run_dir / "clips" / f"{item.clip_id}.mp4").read_bytes()
    with publish(run_dir / name) as temporary:
        time.sleep(WORK_S)
        temporary.write_bytes(hashlib.sha256(clip + feature.encode()).digest() * 300)
    return [Row(files=(name,), scores={"size": 9600.0})]


def dataset(run: Run) -> list[Item]:
    made = [[row.clip_id, row.identity] for name in FEATURES for row in upstream(run, name).itertuples(index=False)]
    return [Item(identity(stage="metadata", made=made), "", "", payload={"clips": sorted({clip for clip, _ in made})})]


def gather(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    time.sleep(WORK_S)
    write_json(run_dir / "metadata.json", {"clips": item.payload["clips"], "identity": item.identity})
    return [Row(clip_id=clip, files=() if n else ("metadata.json",)) for n, clip in enumerate(item.payload["clips"])]


LIGHT = {
    "source": Stage("source", "", sources, look, gives="clips"),
    "face_crop": Stage("face_crop", "clips", partial(after, "face_crop", "source"), crop, gives="clips"),
    **{
        name: Stage(name, f"features/{name}", partial(after, name, "face_crop"), partial(extract, name))
        for name in FEATURES
    },
    "metadata": Stage("metadata", "", dataset, gather, gives="dataset", in_workers=False),
}

if __name__ == "__main__":
    import light_chain  # the module's functions, which worker processes know by name; those of a script they do not

    from flows.cli import main

    STAGES.update(light_chain.LIGHT)
    sys.exit(main())
