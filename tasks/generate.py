"""Stage `generate`: a sample from the trained checkpoint, made after a clip that training did not see where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from dualforce_model import config as configs
from dualforce_model.generate import GenerateConfig
from dualforce_model.media import Clip
from dualforce_model.store import digest_file, identity, write_json
from tasks.config import TRAININGS
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage, row_facts, upstream

VERSION = 2


def plan(run: Run) -> list[Item]:
    """One item: the first held-out clip's first picture and its sound, under the checkpoint of the last training."""
    last = "train" if run.config.train_few is None else "train_few"
    trained = upstream(run, last, "facts")
    if not len(trained):
        raise RunError(f"no finished training in {run.dir}; run the stage {last!r} first")
    (training,) = trained.itertuples(index=False)
    clip = sample_clip(run.dir)
    mine = identity(
        stage="generate",
        version=VERSION,
        training=training.identity,
        clip=json.loads(clip_files(run, clip.clip_id))[0][2],
        config=configs.to_dict(run.config.generate),
    )
    payload = {"config": run.config.generate, "checkpoint": row_facts(training)["folder"], "split": clip.split}
    return [Item(mine, "", "", clip.clip_id, payload)]


def sample_clip(run_dir: Path) -> Any:
    """The row of metadata.parquet that a sample is made after. Raises RunError when there is none."""
    table = pd.read_parquet(run_dir / "metadata.parquet").sort_values("clip_id")
    order = table["split"].map({"val": 0, "test": 1, "train": 2})
    for clip in table.loc[order.sort_values(kind="stable").index].itertuples(index=False):
        return clip
    raise RunError(f"{run_dir / 'metadata.parquet'} holds no clip to make a sample after; run the stage metadata again")


def clip_files(run: Run, clip_id: str) -> str:
    """The recorded files of a clip, as JSON."""
    rows = upstream(run, "face_crop", "files")
    return str(rows.loc[rows["clip_id"] == clip_id, "files"].iloc[0])


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Generate the sample, unless a whole one of the same identity lies there."""
    name = f"samples/{item.clip_id}.mp4"
    film, sidecar = run_dir / name, (run_dir / name).with_suffix(".json")
    if not (reuse and _whole(film, sidecar, item.identity)):
        from dualforce_model.generate.render import Extras, generate

        config: GenerateConfig = item.payload["config"]
        clip = Clip(run_dir / "clips", item.clip_id)
        given = (run_dir / item.payload["checkpoint"], next(iter(clip.frames())), clip.audio(), film)
        made = generate(*given, config, extras=Extras(drift=True))
        facts = {"identity": item.identity, "clip_id": item.clip_id, "frames": made.frames, "sha256": digest_file(film)}
        facts |= {"drift": made.drift}
        write_json(sidecar, {**facts, "split": item.payload["split"], "checkpoint": item.payload["checkpoint"]})
    return [Row(files=(name, str(sidecar.relative_to(run_dir))), facts={"split": item.payload["split"]})]


def _whole(film: Path, sidecar: Path, identity: str) -> bool:
    try:
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        return facts["identity"] == identity and facts["sha256"] == digest_file(film)
    except (OSError, ValueError, KeyError, TypeError):
        return False


STAGE = Stage(
    "generate", "samples", plan, work, plans_from=("metadata",), reads=("face_crop",), reads_all=TRAININGS, in_workers=False
)  # fmt: skip
