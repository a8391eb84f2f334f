"""Where a training stage begins: fresh, or with the weights of another stage's checkpoint; and the file that says so.

lineage.json, beside the checkpoints of a stage, tells which stage it is, what it started from (step, digest, dataset),
how many tensors of each part it loaded, which are new here, which were left there, and the same of all stages before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualforce_model.errors import BadInput
from dualforce_model.model import DualForce, from_pretrained
from dualforce_model.model.files import read_config, tensors
from dualforce_model.store import digest_file, write_json
from dualforce_model.train import checkpoint, shards
from dualforce_model.train.config import TrainConfig
from dualforce_model.train.objective import input_widths

NAME = "lineage.json"
WEIGHTS = "ema"  # of the source: the averaged weights, which are what generation used


@dataclass(frozen=True)
class Start:
    """Weights by name for a fresh model, which keeps its own values for all others; and what lineage.json is to say."""

    weights: Iterable[tuple[str, Tensor]]
    lineage: dict[str, Any]


def begin(
    config: TrainConfig,
    folder: Path | None,
    card: Mapping[str, Any],
    expected: Mapping[str, torch.Size],
    say: Callable[[str], None] = print,
) -> Start:
    """Compare the checkpoint to start from (`source`) with the model (`expected`: its parameters' shapes).

    Raises BadInput: mixed_provenance (its features were made in another way), other_shape (a common parameter has
    another shape), nothing_in_common.
    """
    lineage: dict[str, Any] = {"format": checkpoint.FORMAT, "stage": config.stage}
    if folder is None:
        return Start((), {**lineage, "start": None, "loaded": {}, "new": _parts(expected), "left": {}})
    state, its_card = (
        checkpoint.read_json(folder, "state.json"),
        checkpoint.read_json(folder, "dataset.json")["card"],
    )
    _same_features(folder, its_card, card)
    shapes = shards.stored(folder / WEIGHTS)
    common = [name for name in expected if name in shapes]
    if not common:
        raise BadInput(
            "nothing_in_common", f"{folder} has no parameter of this model; is it a checkpoint of DualForce?"
        )
    other = [f"{name} is {tuple(shapes[name])}, here {tuple(expected[name])}" for name in common
             if shapes[name] != expected[name]]  # fmt: skip
    if other:
        raise BadInput(
            "other_shape",
            f"{folder} does not fit: {'; '.join(other[:3])}{f' and {len(other) - 3} more' if len(other) > 3 else ''}; "
            f"it was trained with preset {state['config']['preset']}, this is {config.preset}",
        )
    new, left = [n for n in expected if n not in shapes], [n for n in shapes if n not in expected]
    changed = _changed(folder, config, card)
    found = {
        **lineage,
        "start": {
            "from": config.start_from,
            "digest": digest(folder),
            "stage": state["config"]["stage"],
            "step": state["step"],
            "dataset": state["dataset"],
            "code": state["code"],
        },
        "loaded": _parts(common),
        "new": _parts(new),
        "left": _parts(left),
        "changed": changed,
        "before": read(folder.parent),
    }
    say(
        f"starting from {folder} (stage {state['config']['stage']}, step {state['step']}): {_said('loaded', common)}; "
        f"{_said('new here', new)}; {_said('left there', left)}"
        + "".join(f"; {key} was {was!r} and is {now!r}" for key, (was, now) in changed.items())
    )
    if state["dataset"] != card["identity"]:
        say(f"it was trained on dataset {state['dataset']}, this is {card['identity']}: scales may differ")
    wanted = set(common)
    return Start(((name, tensor) for name, tensor in weights_of(folder) if name in wanted), found)


def source(config: TrainConfig, run_dir: Path) -> Path | None:
    """The whole checkpoint folder that `start_from` means, if it means any. Reads all of it, which takes minutes at tens
    of GB. Raises BadInput: no_checkpoint, damaged_checkpoint.
    """
    return None if config.start_from is None else checkpoint.resolve(run_dir / config.start_from)


def weights_of(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The averaged weights of a checkpoint, whole, one at a time."""
    return tensors(folder / WEIGHTS)


def digest(folder: Path) -> str:
    """What identifies a checkpoint: the digest of its marker, which holds those of all its files."""
    return digest_file(folder / checkpoint.MARKER)[:16]


def objections(config: TrainConfig, run_dir: Path, out: Path, loaded: Path | None = None) -> list[str]:
    """Why the checkpoints in `out` are not those of this start; empty when they are, or when its source is gone.

    `loaded`: the source, where it is read anyway. Else its marker says enough: nothing is loaded from it any more.
    """
    told = read(out)
    if told is None:
        return []
    was = (told["start"] or {}).get("digest")
    if config.start_from is None:
        return [] if was is None else [f"it started from {told['start']['from']} and now starts fresh"]
    there = loaded or checkpoint.marked(run_dir / config.start_from)
    if there is not None and digest(there) == was:
        return []
    try:  # it may be that a newer one with a marker was damaged, and passed over, when this began
        there = loaded or checkpoint.resolve(run_dir / config.start_from)
    except BadInput:
        return []
    now = digest(there)
    return [] if now == was else [f"it started from checkpoint {was} and now from {now} ({config.start_from})"]


def teacher(folder: Path, device: torch.device) -> DualForce:
    """The frozen model that few-step tuning learns from: the checkpoint that it started from."""
    model = from_pretrained(folder / WEIGHTS, device=device)
    return model.requires_grad_(False).eval()


def write(out: Path, lineage: Mapping[str, Any]) -> None:
    write_json(out / NAME, dict(lineage))


def read(out: Path) -> dict[str, Any] | None:
    """lineage.json of a folder of checkpoints, None where there is none."""
    path = out / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _same_features(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    known = there["features"]
    # who never read a text may begin to
    compared = [name for name in here["features"] if name != "text" or name in known]
    wrong = [name for name in compared if known.get(name) != here["features"][name]]
    if wrong:
        one = wrong[0]
        raise BadInput(
            "mixed_provenance",
            f"{folder} was trained on {one} made by {there['features'].get(one)}, this dataset's are made by "
            f"{here['features'][one]}; weights of one mean nothing to the other",
        )


def _changed(folder: Path, config: TrainConfig, card: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings of the model, beside its towers and bridge, that are not what they were."""
    was = read_config(folder / WEIGHTS).to_dict()
    now = config.shape(**input_widths(card)).to_dict()
    apart = ("video", "struct", "bridge", "flame_dim", "struct_tokens")
    return {key: [was.get(key), now[key]] for key in now if key not in apart and was.get(key) != now[key]}


def _parts(names: Iterable[str]) -> dict[str, int]:
    """Tensors by part: `video.blocks` 52, `bridges` 26."""
    return dict(sorted(Counter(".".join(name.split(".")[:2]) for name in names).items()))


def _said(what: str, names: list[str]) -> str:
    rooms = Counter(name.split(".")[0] for name in names)
    listed = ", ".join(f"{room} {count}" for room, count in sorted(rooms.items()))
    return f"{what} {len(names)} tensors" + (f" ({listed})" if listed else "")
