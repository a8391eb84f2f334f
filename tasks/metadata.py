"""Stage `metadata`: every accepted clip's features validated and made one dataset, split by identity."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from dualforce_model import config as configs
from dualforce_model import metadata
from dualforce_model.faces import identity as who
from dualforce_model.features import FEATURES
from dualforce_model.metadata import MetadataConfig
from dualforce_model.store import identity, read_tensors
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage, row_facts, upstream

FILES = ("metadata.json", "metadata.parquet", "stats.json")


def plan(run: Run) -> list[Item]:
    """One item: the dataset. Its identity holds those of all features of all accepted clips."""
    check(run)
    accepted = upstream(run, "quality")
    if not len(accepted):
        raise RunError(f"no clip of {run.dir} was accepted; `dualforce status {run.dir}` says why")
    frames = {
        row.clip_id: row_facts(row)["frames"] for row in upstream(run, "face_crop", "facts").itertuples(index=False)
    }
    made: dict[str, dict[str, str]] = defaultdict(dict)
    for name in FEATURES:
        for row in upstream(run, name).itertuples(index=False):
            made[row.clip_id][name] = row.identity
    texts = {}
    if not run.config.leaves_out("text"):
        for row in upstream(run, "text").itertuples(index=False):
            texts[row.clip_id] = {"text": row.artifact}
            made[row.clip_id]["text"] = row.identity
    known = {row.source: _known(row) for row in upstream(run, "source", "facts").itertuples(index=False)}
    faces = run.config.metadata.identity_from == "face"
    clips = [
        {"clip_id": row.clip_id, "source_id": row.source_id, "source": row.source, "frames": frames[row.clip_id]}
        | ({"person": row.artifact, "measured": row.identity} if faces else {})
        | known.get(row.source, {})
        | texts.get(row.clip_id, {})
        for row in accepted.itertuples(index=False)
    ]
    mine = identity(
        stage="metadata",
        format=metadata.FORMAT,
        config=configs.to_dict(run.config.metadata),
        clips=[[clip, made.get(clip["clip_id"], {})] for clip in clips],
    )
    payload = {
        "clips": clips,
        "config": run.config.metadata,
        "face_crop": configs.to_dict(run.config.face_crop),  # part of the features' identities already
    }
    return [Item(mine, "", "", payload=payload)]


def check(run: Run) -> None:
    """Raises RunError when people are to be told apart by what is not measured."""
    if run.config.metadata.identity_from == "face" and run.config.measure.identity != "arcface":
        raise RunError("metadata.identity_from=face needs measure.identity=arcface")


def _known(row: Any) -> dict[str, str]:
    """What a dataset's list says of a source: who is seen, and under which terms."""
    listed = row_facts(row).get("listed")
    return {"licence": listed["licence"], "identity_group": listed["person"]} if listed else {}


def _by_face(run_dir: Path, clips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The clips with who is seen as their `identity_group`: the same face, the same video or the same listed person."""
    persons = {clip["clip_id"]: read_tensors(run_dir / clip["person"])["person"] for clip in clips if clip["person"]}
    known = {clip["clip_id"]: clip.get("identity_group") or clip["source_id"] for clip in clips}
    group = who.groups(persons, known)
    return [clip | {"identity_group": f"face:{group[clip['clip_id']]}"} for clip in clips]


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Build the dataset; a row per clip. Raises BadInput when no clip can be used or two ways of making are mixed."""
    config: MetadataConfig = item.payload["config"]
    clips = item.payload["clips"]
    if config.identity_from == "face":
        clips = _by_face(run_dir, clips)
    folders = {name: run_dir / "features" / name for name in FEATURES}
    sources = {clip["clip_id"]: clip["source"] for clip in clips}
    rows = []
    for n, found in enumerate(metadata.build(run_dir, clips, folders, config, item.payload["face_crop"])):
        rows.append(
            Row(
                status=found["status"],
                reason=found["reason"],
                message=found["message"],
                clip_id=found["clip_id"],
                source_id=found["source_id"],
                source=sources[found["clip_id"]],
                facts={"group": found["group"], "split": found["split"]},
                files=() if n else FILES,  # they belong to all rows; one is enough to watch over them
            )
        )
    return rows


STAGE = Stage("metadata", "", plan, work, gives="dataset", reads_all=("quality", *FEATURES, "text"), in_workers=False)
