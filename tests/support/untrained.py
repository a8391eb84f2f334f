"""A checkpoint without training: a tiny model of random weights, and the card of a dataset that never was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from dualforce_model import config as strict
from dualforce_model.features import FEATURES, audio_features, flame, struct_latents
from dualforce_model.model import DualForce, save_pretrained
from dualforce_model.train import TrainConfig, checkpoint
from dualforce_model.train.objective import model_config


def card_of(size: int) -> dict[str, Any]:
    """As metadata.build would write it, every feature by its embedded backend, standardised already."""
    settings = {name: feature.config() for name, feature in FEATURES.items()}
    dims = {
        "audio": audio_features.width_of(settings["audio_features"]),
        "struct": struct_latents.DIM,
        "flame": flame.DIM,
    }
    stats = {name: {"mean": [0.0] * dim, "std": [1.0] * dim, "count": [1] * dim} for name, dim in dims.items()}
    made_by = {
        name: {"config": strict.to_dict(settings[name]), "version": FEATURES[name].version, "backend": "embedded"}
        for name in FEATURES
    }
    sizes = {"size": size, "latent_size": size // 8, "audio_dim": dims["audio"], "struct_dim": dims["struct"]}
    return {"identity": "0" * 32, "features": made_by, "stats": stats, **sizes, "flame_dim": dims["flame"]}


def write_checkpoint(root: Path, size: int = 96) -> Path:
    """A checkpoint folder that `Talker.load` takes; its model draws noise that depends on all that it is given."""
    config, card = TrainConfig(frames=3), card_of(size)
    torch.manual_seed(0)
    model = DualForce(model_config(config, card))
    with torch.no_grad():
        for parameter in model.parameters():  # what starts at zero would hide what it is given
            parameter += 0.02 * torch.randn_like(parameter)

    def fill(folder: Path) -> None:
        save_pretrained(model, folder / "ema")
        state = {"step": 0, "config": strict.to_dict(config), "dataset": card["identity"], "code": ""}
        for name, value in (("state.json", state), ("dataset.json", {"card": card})):
            (folder / name).write_text(json.dumps({"format": checkpoint.FORMAT, **value}))

    return checkpoint.write(root, 0, fill)
