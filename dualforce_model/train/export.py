"""A model alone, out of a checkpoint: one safetensors file (several above 5 GB), its config, and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dualforce_model.errors import BadInput
from dualforce_model.model import WeightsError, from_pretrained, save_pretrained
from dualforce_model.store import write_json
from dualforce_model.train import checkpoint

ORIGIN = "origin.json"
Weights = Literal["ema", "model"]


def export(source: Path, folder: Path, weights: Weights = "ema") -> Path:
    """Write the averaged weights (`ema`), or those of the last step (`model`), for `model.from_pretrained`.

    `source`: a checkpoint, or a folder of them. `folder` must be new or empty. Raises BadInput: no_checkpoint,
    damaged_checkpoint, folder_in_use.
    """
    found = checkpoint.resolve(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput("folder_in_use", f"{folder} is not empty; name a new folder, nothing there is overwritten")
    told = checkpoint.read_json(found, "state.json")
    try:
        model = from_pretrained(found / weights)
    except WeightsError as error:
        raise BadInput("damaged_checkpoint", str(error)) from error
    save_pretrained(model, folder)
    origin = {name: told[name] for name in ("step", "dataset", "code")}
    write_json(folder / ORIGIN, {"checkpoint": found.name, "weights": weights, **origin})
    return folder
