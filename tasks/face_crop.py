"""Stage `face_crop`: source video → clips of one face each, 512×512 at 25 fps with 16 kHz sound, and their landmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dualforce_model import config as configs
from dualforce_model import faces
from dualforce_model.faces import FaceCropConfig
from dualforce_model.media.cut import Cut
from dualforce_model.store import identity
from tasks.run import Run
from tasks.stage import Item, Row, Stage, row_facts, upstream


def plan(run: Run) -> list[Item]:
    """One item per readable source; the identity holds its content, so a replaced file is done again."""
    settings, weights = configs.to_dict(run.config.face_crop), faces.weights_of(run.config.face_crop)
    items = []
    for row in upstream(run, "source", "facts").itertuples(index=False):
        facts = row_facts(row)
        piece = {"cut": facts["cut"]} if "cut" in facts else {}
        mine = identity(
            stage="face_crop",
            version=run.config.face_crop.version,
            config=settings,
            weights=weights,
            content=facts["content"],
            source_id=row.source_id,
            **piece,
        )
        cut = configs.build(Cut, facts["cut"]) if piece else None
        payload = {"path": str(run.dir / facts["path"]), "config": run.config.face_crop, "cut": cut}
        probe = facts["probe"]
        seconds = probe["duration_s"] if cut is None else cut.end_s - cut.start_s
        cost = seconds * probe["width"] * probe["height"]
        items.append(Item(mine, row.source_id, row.source, payload=payload, cost=cost))
    return items


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Crop one source. A source is done when the ledger says so: only then are all of its clips known to be there."""
    config: FaceCropConfig = item.payload["config"]
    path, cut = Path(item.payload["path"]), item.payload["cut"]
    sidecars = faces.crop_source(path, item.source_id, item.identity, run_dir / "clips", config, cut)
    return [_row(sidecar) for sidecar in sidecars]


def _row(sidecar: dict[str, Any]) -> Row:
    clip_id = sidecar["clip_id"]
    files = tuple(f"clips/{clip_id}{ending}" for ending in (".mp4", ".landmarks.safetensors", ".json"))
    return Row(clip_id=clip_id, files=files, facts=json.loads(json.dumps(sidecar)))


STAGE = Stage("face_crop", "clips", plan, work, gives="clips", reads=("download",))
