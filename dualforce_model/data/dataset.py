"""A prepared run folder as training sees it: its clips by split, statistics and provenance (metadata's three files)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dualforce_model.download import deny
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES
from dualforce_model.metadata import FORMAT


@dataclass(frozen=True)
class Clip:
    """One accepted clip: T raw frames, F latents, the file of each feature."""

    clip_id: str
    frames: int  # T
    latents: int  # F
    files: Mapping[str, Path]  # the five, and `text` where somebody said what is seen


@dataclass(frozen=True)
class Dataset:
    """The clips of each split.

    `card` is what a checkpoint must carry about the data: metadata.json (identity, size, features made by, ...)
    with stats.json as `stats`.
    """

    clips: Mapping[str, tuple[Clip, ...]]  # by split
    card: Mapping[str, Any]

    @classmethod
    def open(cls, run_dir: Path) -> Dataset:
        """Read metadata.parquet, metadata.json and stats.json. Raises BadInput when they are missing or of no use."""
        facts, stats = _json(run_dir / "metadata.json"), _json(run_dir / "stats.json")
        if facts.get("format") != FORMAT:
            raise BadInput(
                "other_format", f"{run_dir}/metadata.json has format {facts.get('format')}, this is {FORMAT}"
            )
        try:
            table = pd.read_parquet(run_dir / "metadata.parquet")
        except (OSError, ValueError) as error:
            raise BadInput(
                "no_dataset", f"cannot read {run_dir}/metadata.parquet: {error}; run the metadata stage"
            ) from error
        table = table.sort_values("clip_id")
        clips: dict[str, list[Clip]] = {"train": [], "val": [], "test": []}
        denied = deny.read(run_dir)
        for row in table.to_dict("records"):
            if deny.denies(denied, row["source"], row["source_id"], row["clip_id"]):
                continue
            files = {name: run_dir / row[name] for name in FEATURES}
            if isinstance(row.get("text"), str):  # no column where no clip has a caption, null where this one has none
                files["text"] = run_dir / row["text"]
            clips[row["split"]].append(Clip(row["clip_id"], int(row["frames"]), int(row["latents"]), files))
        if not clips["train"]:
            raise BadInput(
                "no_clips", f"{run_dir}/metadata.parquet has no clip in the train split; nothing to train on"
            )
        card = {**facts, "stats": stats}
        return cls({split: tuple(rows) for split, rows in clips.items()}, card)


@dataclass(frozen=True)
class Scale:
    """Standardisation of one feature, per dimension of its last axis: (x - mean) / std and back."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, card: Mapping[str, Any], feature: str) -> Scale:
        """From the card of a dataset or checkpoint. Raises BadInput when it has no statistics of the feature."""
        stats = card["stats"]
        if feature not in stats:
            raise BadInput("no_statistics", f"the dataset's statistics have no {feature!r}, only {sorted(stats)}")
        return cls(np.asarray(stats[feature]["mean"], np.float32), np.asarray(stats[feature]["std"], np.float32))

    def apply(self, x: np.ndarray) -> np.ndarray:
        return (x.astype(np.float32) - self.mean) / self.std

    def invert(self, x: np.ndarray) -> np.ndarray:
        return x * self.std + self.mean


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise BadInput("no_dataset", f"cannot read {path}: {error}; run the metadata stage") from error
