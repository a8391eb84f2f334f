"""What a training run is between two steps, and how it goes into a checkpoint and comes out again, bit for bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dualforce_model import config as strict
from dualforce_model.configs.shape import ModelConfig
from dualforce_model.errors import BadInput
from dualforce_model.model import DualForce
from dualforce_model.model.files import CONFIG, WEIGHTS
from dualforce_model.store import digest_file
from dualforce_model.train import shards
from dualforce_model.train.checkpoint import FORMAT, read_json
from dualforce_model.train.config import APART, TrainConfig, lineage
from dualforce_model.train.optimiser import Ema
from dualforce_model.train.parallel import Parallel, local, whole

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, per parameter
SLACK = 1 << 20  # bytes of a checkpoint beside its large tensors
ROOMS = ("configs", "model", "diffusion", "data", "train")  # whose code decides the weights


@dataclass
class TrainState:
    """Model, its moving average, its optimiser, the number of steps done, and of those that moved the weights."""

    model: DualForce
    ema: Ema
    optimiser: torch.optim.Optimizer
    step: int = 0
    updates: int = 0
    extra: dict[str, Any] = field(default_factory=dict)  # plain data of others that must come back: {"watch": ...}

    def files(self, parallel: Parallel) -> dict[str, dict[str, Tensor]]:
        """What this process writes of a checkpoint: tensors by file and name."""
        place = f"{parallel.rank + 1:05d}-of-{parallel.world:05d}"
        found: dict[str, dict[str, Tensor]] = {f"rng/rank-{place}.safetensors": _random_states()}
        if parallel.main or parallel.sharded:
            name = f"shard-{place}.safetensors" if parallel.sharded and parallel.world > 1 else WEIGHTS
            found |= {
                f"model/{name}": dict(self.model.named_parameters()),
                f"ema/{name}": self.ema.weights,
            }
            found |= {f"optimiser/{key}-{name}": self._moments(key) for key in MOMENTS}
        return found

    def size(self, parallel: Parallel) -> int:
        """Bytes that this process writes of a checkpoint, a little more at most."""
        if not (parallel.main or parallel.sharded):
            return SLACK
        copies = len(MOMENTS) + 2  # beside them the weights and their averages
        return SLACK + copies * sum(local(p).nbytes + 64 for p in self.model.parameters())

    def texts(self, config: TrainConfig, card: Mapping[str, Any], parallel: Parallel) -> dict[str, str]:
        """The JSON files of a checkpoint, which the first process writes.

        The place in the order of windows is `step`: which windows a step takes is a function of it and the config.
        """
        if not parallel.main:
            return {}
        state = {
            "step": self.step,
            "updates": self.updates,
            "processes": parallel.world,
            "config": strict.to_dict(config),
            "levels": strict.to_dict(config.levels),
            "dataset": card["identity"],
            "code": code_version(),
            **self.extra,
        }
        shape = json.dumps(self.model.config.to_dict(), indent=1) + "\n"
        return {
            f"model/{CONFIG}": shape,
            f"ema/{CONFIG}": shape,
            "state.json": _text(state),
            "dataset.json": _text({"card": dict(card)}),
        }

    def load(self, folder: Path, parallel: Parallel) -> None:
        """Continue from a checkpoint folder of the same model and optimiser, written by any number of processes."""
        told = read_json(folder, "state.json")
        named = {name: p.detach() for name, p in self.model.named_parameters()}
        shards.read(folder / "model", named)
        shards.read(folder / "ema", self.ema.weights)
        self.step, self.updates = int(told["step"]), int(told["updates"])
        # what a checkpoint of before does not know begins as it does in a fresh training
        self.extra = {name: told.get(name, value) for name, value in self.extra.items()}
        moments: dict[str, Tensor] = {}
        for name in shards.stored(folder / "optimiser") if self.updates else ():
            moments[name] = torch.zeros_like(named[name.partition("/")[2]])
        if moments:
            shards.read(folder / "optimiser", moments)
        on_device = any(group["fused"] for group in self.optimiser.param_groups)
        for name, parameter in self.model.named_parameters():
            if f"{MOMENTS[0]}/{name}" in moments:
                count = torch.tensor(float(self.updates), device=parallel.device if on_device else "cpu")
                own = {key: moments[f"{key}/{name}"] for key in MOMENTS}
                self.optimiser.state[parameter] = {"step": count, **own}
        place = f"rng/rank-{parallel.rank + 1:05d}-of-{parallel.world:05d}.safetensors"
        if (folder / place).exists():  # on another number of processes they begin anew: nothing here draws from them
            _restore(load_file(folder / place))

    def averaged_model(self, parallel: Parallel) -> DualForce | None:
        """The whole model with averaged weights, on the first process; None on the others. All must call."""
        weights = whole(self.ema.weights, keep=parallel.main)
        if not parallel.main:
            return None
        with torch.device("meta"):
            model = DualForce(self.model.config)
        model.load_state_dict(weights, assign=True)
        return model.to(parallel.device).requires_grad_(False).eval()

    def _moments(self, key: str) -> dict[str, Tensor]:
        named, state = dict(self.model.named_parameters()), self.optimiser.state
        return {f"{key}/{name}": state[p][key] for name, p in named.items() if p in state}


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **value}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _random_states() -> dict[str, Tensor]:
    found = {"cpu": torch.get_rng_state()}
    return found | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else found


def _restore(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def objections(folder: Path, config: TrainConfig, shape: ModelConfig, card: Mapping[str, Any]) -> list[str]:
    """Why a checkpoint can't be continued under this config, of this model, and dataset; empty when it can."""
    state, here = read_json(folder, "state.json"), lineage(config)
    there = {key: value for key, value in state["config"].items() if key not in APART}
    found = [
        f"{key} was {there.get(key)!r} and is {here.get(key)!r}"
        for key in sorted(here.keys() | there.keys())
        if there.get(key) != here.get(key)
    ]
    if state["dataset"] != card["identity"]:
        found.append(f"the dataset was {state['dataset']} and is {card['identity']}")
    return found or _edited(folder, state, config, shape)


def _edited(folder: Path, state: Mapping[str, Any], config: TrainConfig, shape: ModelConfig) -> list[str]:
    """What equal settings no longer mean: presets and ablations are files, which may have been edited meanwhile."""
    model = json.loads((folder / "model" / CONFIG).read_text(encoding="utf-8"))
    pairs = (("model", model, shape.to_dict()), ("noise", state.get("levels", {}), strict.to_dict(config.levels)))
    return [
        f"{what}.{key} of preset {config.preset}, ablation {config.ablation} was {was[key]!r} and is {now[key]!r}"
        for what, was, now in pairs
        for key in now
        if key in was and was[key] != now[key]  # other code may not have known the key
    ]


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
