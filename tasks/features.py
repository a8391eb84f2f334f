"""The five feature stages: one accepted clip → one safetensors file each. They differ only in their extractor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dualforce_model.features import FEATURES
from dualforce_model.media import Clip
from dualforce_model.store import identity, intact, write_tensors
from tasks import devices
from tasks.run import Run
from tasks.stage import Item, Row, Stage, clip_items, upstream


def plan(feature: str, run: Run) -> list[Item]:
    """One item per accepted clip."""
    spec = FEATURES[feature]
    config = getattr(run.config, feature)
    settings, weights = spec.settings(config), spec.weights_of(config)
    cropped = dict(upstream(run, "face_crop")[["clip_id", "identity"]].itertuples(index=False))
    rows = upstream(run, "quality")
    rows = rows[rows["clip_id"].isin(cropped.keys())]

    def mine(row: Any) -> str:
        return identity(
            stage=feature,
            version=spec.version_of(config),
            config=settings,
            weights=weights,
            clip=cropped[row.clip_id],
            clip_id=row.clip_id,
        )

    return clip_items(rows, mine, config=config, weights=weights)


def work(feature: str, item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Extract one feature of one clip, unless a whole artifact of the same identity lies there already."""
    name = f"features/{feature}/{item.clip_id}.safetensors"
    if not (reuse and intact(run_dir / name, item.identity)):
        spec, config = FEATURES[feature], item.payload["config"]
        devices.turn_to(spec.published.get(config.backend))
        tensors = spec.extract(Clip(run_dir / "clips", item.clip_id), config)
        provenance = {
            "identity": item.identity,
            "clip_id": item.clip_id,
            "feature": feature,
            "backend": config.backend,
            "version": spec.version_of(config),
            "weights": item.payload["weights"],
            "config": spec.settings(config),
            "statistics": spec.statistics(tensors),
        }
        write_tensors(run_dir / name, tensors, provenance)
    return [Row(files=(name,))]


STAGES = {
    name: Stage(name, f"features/{name}", partial(plan, name), partial(work, name), reads=("face_crop",))
    for name in FEATURES
}
