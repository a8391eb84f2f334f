"""A copy of a prepared run folder in which some clips have a caption's embedding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dualforce_model import metadata
from dualforce_model.features import FEATURES
from dualforce_model.store import identity, write_tensors

WIDTH = 24


def put(run_dir: Path, name: str, text: np.ndarray, **made: str) -> str:
    """Store an embedding [S,W] float16; its path relative to the run folder."""
    path = f"features/text/{name}.safetensors"
    provenance = {"feature": "text", "backend": "umt5", "version": "1", "weights": "w", "config": {}, "caption": name}
    provenance |= {"identity": identity(text=name), **made}
    write_tensors(run_dir / path, {"text": text.astype(np.float16)}, provenance)
    return path


def worded(prepared: Path, folder: Path, texts: Mapping[str, np.ndarray]) -> Path:
    """The copy; `texts` by the beginnings of clip ids."""
    shutil.copytree(prepared, folder)
    rows = pd.read_parquet(folder / "metadata.parquet")[["clip_id", "source_id", "source", "frames"]].to_dict("records")
    paths = {name: put(folder, name, text) for name, text in texts.items()}
    for row in rows:
        row["text"] = next((path for name, path in paths.items() if row["clip_id"].startswith(name)), None)
    # the draw of `prepared.run_folder`, so that the same clip is held out
    config = metadata.MetadataConfig(val_share=0.34, test_share=0.0, seed=6)
    metadata.build(folder, rows, {name: folder / "features" / name for name in FEATURES}, config)
    assert json.loads((folder / "metadata.json").read_text())["text_dim"] == WIDTH
    return folder


def random_text(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, WIDTH)).astype(np.float16)
