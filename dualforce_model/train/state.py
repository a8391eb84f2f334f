"""What a training run is between two steps, and how it goes into a checkpoint and comes out again, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dualforce_model import config as strict
from dualforce_model.errors import BadInput
from dualforce_model.model import DualForce, save_pretrained
from dualforce_model.model.files import tensors
from dualforce_model.store import digest_file
from dualforce_model.train.checkpoint import FORMAT, read_json
from dualforce_model.train.config import OPERATIONAL, TrainConfig, lineage
from dualforce_model.train.optimiser import Ema

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, per parameter
ROOMS = ("configs", "model", "diffusion", "data", "train")  # whose code decides the weights


@dataclass
class TrainState:
    """Model, its moving average, its optimiser, and the number of optimiser steps done."""

    model: DualForce
    ema: Ema
    optimiser: torch.optim.Optimizer
    step: int = 0

    def save(self, folder: Path, config: TrainConfig, card: Mapping[str, Any]) -> None:
        """Fill a checkpoint folder."""
        save_pretrained(self.model, folder / "model")
        save_pretrained(self.model, folder / "ema", self.ema.weights)
        save_file(self._moments(), folder / "optimiser.safetensors")
        state = {
            "step": self.step,
            "config": strict.to_dict(config),
            "dataset": card["identity"],
            "code": code_version(),
        }
        for name, value in (("state.json", state), ("dataset.json", {"card": dict(card)})):
            text = json.dumps({"format": FORMAT, **value}, indent=1, sort_keys=True, allow_nan=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint folder of the same model and optimiser."""
        device = next(self.model.parameters()).device
        self.model.load_state_dict(dict(tensors(folder / "model", device)))
        self.ema.weights = {name: weight.float() for name, weight in tensors(folder / "ema", device)}
        moments = load_file(folder / "optimiser.safetensors", device=str(device))
        for name, parameter in self.model.named_parameters():
            if f"step/{name}" in moments:
                self.optimiser.state[parameter] = {key: moments[f"{key}/{name}"] for key in MOMENTS}
        self.step = int(read_json(folder, "state.json")["step"])

    def _moments(self) -> dict[str, Tensor]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        state = self.optimiser.state
        return {f"{key}/{names[id(p)]}": state[p][key].contiguous() for p in state for key in MOMENTS}


def objections(folder: Path, config: TrainConfig, card: Mapping[str, Any]) -> list[str]:
    """Why a checkpoint can't be continued under this config and dataset; empty when it can."""
    state, here = read_json(folder, "state.json"), lineage(config)
    there = {key: value for key, value in state["config"].items() if key not in OPERATIONAL}
    found = [
        f"{key} was {there.get(key)!r} and is {here.get(key)!r}"
        for key in sorted(here.keys() | there.keys())
        if there.get(key) != here.get(key)
    ]
    if state["dataset"] != card["identity"]:
        found.append(f"the dataset was {state['dataset']} and is {card['identity']}")
    return found


def refuse(folder: Path, found: list[str]) -> BadInput:
    """The error for a checkpoint that belongs to another run."""
    return BadInput(
        "other_run",
        f"{folder} belongs to another run: {'; '.join(found)}. Use another folder, or set on_mismatch to 'restart' "
        "(remove these checkpoints) or 'adopt' (go on from them all the same)",
    )


def written_by_this_code(folder: Path) -> bool:
    """Whether the code that decides the weights is what it was when the checkpoint was written."""
    return bool(read_json(folder, "state.json")["code"] == code_version())


def code_version() -> str:
    """12 hex digits over the source of the rooms that decide the weights."""
    library = Path(__file__).parent.parent
    files = [library / "timeline.py", *(f for room in ROOMS for f in sorted((library / room).glob("*.py")))]
    digests = " ".join(f"{f.relative_to(library)}:{digest_file(f)}" for f in files)
    return hashlib.sha256(digests.encode()).hexdigest()[:12]


def count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
