"""A run folder as large as wanted without the work: one clip goes through the real stages, the others are its copies.

Every copy has files of its own in the real formats, and rows whose identities are those that the stages' own plans ask
for; so a real run over the folder finds nothing to do. The dataset is built by the real stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dualforce_model import config as configs
from dualforce_model.config import ConfigError
from dualforce_model.demo.clips import SCENES, render_scene
from dualforce_model.features import FEATURES
from dualforce_model.store import digest_bytes, ledger, read_provenance, read_tensors
from tasks import quality
from tasks.config import RunConfig
from tasks.run import Run, create
from tasks.shard import Record, records_of
from tasks.stage import Item, Row
from tasks.stages import STAGES

SETTINGS = {"face_crop": {"size": 64}, "quality": {"min_duration_s": 0.1}}
FRAMES = 12  # of the one clip; half a second
REJECTED = 20  # one further clip for so many is rejected, so that there are reasons to count
CHAIN = ("source", "face_crop", "quality", *FEATURES, "metadata")

Copy = Callable[[Item, int], Row]


def make(folder: Path, clips: int, tell: Callable[[str], None] = lambda stage: None) -> Run:
    """Make `folder/videos` and the finished `folder/run` with `clips` accepted clips; `tell` hears each stage's name."""
    original = _chain(folder / "original")
    run = create(folder / "run", _config("synthetic", folder / "videos"))
    count = clips + clips // REJECTED
    (folder / "videos").mkdir()
    for n in range(count):
        (folder / "videos" / f"clip-{n:06d}.mp4").write_text(f"video {n}\n")
    for stage in CHAIN[:-1]:
        tell(stage)
        rows = _copies(
            run, stage, _COPIES[stage](original, run) if stage in _COPIES else _feature(original, run, stage)
        )
        for number, some in enumerate(rows):
            ledger.write_part(run.dir, stage, number, some)
        ledger.finish(run.dir, stage)
    tell("metadata")
    _really(run, "metadata")
    return run


def _config(name: str, videos: Path) -> RunConfig:
    return configs.build(RunConfig, {**SETTINGS, "name": name, "source": {"input": str(videos)}})


def _chain(folder: Path) -> Run:
    """A run over one rendered video."""
    scene = replace(SCENES[0], seconds=FRAMES / 25, width=256, height=256, face=140.0)
    render_scene(scene, folder / "videos", (0, 0))
    run = create(folder / "run", _config("original", folder / "videos"))
    for stage in CHAIN[:-1]:
        _really(run, stage)
    if not (ledger.read(run.dir, "reference", ["status"])["status"] == "accepted").any():
        raise ConfigError(f"the clip that should be copied was not accepted; see `dualforce status {run.dir}`")
    return run


def _really(run: Run, stage: str) -> None:
    records = []
    for item in STAGES[stage].plan(run):
        rows = STAGES[stage].work(item, run.dir, False)
        records += records_of(run.dir, stage, item, rows)
    ledger.write_part(run.dir, stage, 0, quality.judge(records, run.config.quality) if stage == "quality" else records)
    ledger.finish(run.dir, stage)


def _copies(run: Run, stage: str, copy: Copy) -> Iterator[list[Record]]:
    """Rows of a stage's items, `shard_size` at a time."""
    items, size = STAGES[stage].plan(run), run.config.runner.shard_size
    for start in range(0, len(items), size):
        rows = [
            record
            for n, item in enumerate(items[start : start + size], start)
            for record in records_of(run.dir, stage, item, [copy(item, n)], seconds=1.0)
        ]
        yield quality.judge(rows, run.config.quality) if stage == "quality" else rows


def _first(run: Run, stage: str) -> dict[str, Any]:
    return ledger.table(run.dir, stage).slice(0, 1).to_pylist()[0]  # type: ignore[no-any-return]


def _source(original: Run, run: Run) -> Copy:
    facts = ledger.facts(_first(original, "source"))

    def copy(item: Item, n: int) -> Row:
        path = item.payload["path"]
        mine = {"content": digest_bytes(Path(path).read_bytes()), "path": path}
        return Row(source_id=f"clip-{n:06d}-{digest_bytes(item.source.encode())[:8]}", facts=facts | mine)

    return copy


def _face_crop(original: Run, run: Run) -> Copy:
    facts, clip_id = ledger.facts(_first(original, "face_crop")), _first(original, "face_crop")["clip_id"]
    video = (original.clips / f"{clip_id}.mp4").read_bytes()
    marks = original.clips / f"{clip_id}.landmarks.safetensors"
    header, arrays = read_provenance(marks), {name: array[:1] for name, array in read_tensors(marks).items()}
    run.clips.mkdir()

    def copy(item: Item, n: int) -> Row:
        mine = f"{item.source_id}-s0t0"
        names = {"identity": item.identity, "clip_id": mine}
        told = {**facts, **names, "source_id": item.source_id}
        data = _safetensors(arrays, header | names), (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()
        files = []
        for ending, content in ((".mp4", video), (".landmarks.safetensors", data[0]), (".json", data[1])):
            files.append(f"clips/{mine}{ending}")
            (run.dir / files[-1]).write_bytes(content)
        return Row(clip_id=mine, files=tuple(files), facts=told)

    return copy


def _quality(original: Run, run: Run) -> Copy:
    scores, random = ledger.scores(_first(original, "quality")), np.random.default_rng(0)

    def copy(item: Item, n: int) -> Row:
        spread = {k: None if v is None else v * (1 + 1e-3 * random.random()) for k, v in scores.items()}
        return Row(scores=spread | ({"loudness_db": -120.0} if n % (REJECTED + 1) == REJECTED else {}))

    return copy


def _feature(original: Run, run: Run, name: str) -> Copy:
    path = original.dir / _first(original, name)["artifact"]
    header, arrays = read_provenance(path), read_tensors(path)
    (run.features / name).mkdir(parents=True)

    def copy(item: Item, n: int) -> Row:
        file = f"features/{name}/{item.clip_id}.safetensors"
        mine = {"identity": item.identity, "clip_id": item.clip_id}
        (run.dir / file).write_bytes(_safetensors(arrays, header | mine))
        return Row(files=(file,))

    return copy


def _safetensors(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> bytes:
    return save(arrays, metadata={"dualforce": json.dumps(header, sort_keys=True)})


_COPIES = {"source": _source, "face_crop": _face_crop, "quality": _quality}


def idle_items(count: int) -> list[Item]:
    """Items of a stage that has nothing to do."""
    return [Item(f"{n:032x}", f"idle-{n}", f"idle-{n}", f"idle-{n}") for n in range(count)]


def idle(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """The work of that stage: none."""
    return [Row(scores={"nothing": 0.0})]
