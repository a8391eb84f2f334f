"""Model files: safetensors (in shards above 5 GB) beside a strict JSON config. Whatever does not fit is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dualforce_model.config import ConfigError
from dualforce_model.configs.shape import ModelConfig
from dualforce_model.model.dualforce import DualForce

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ROWS = "shard-*.safetensors"  # of the processes of a training
SHARD_BYTES = 5_000_000_000


class WeightsError(ValueError):
    """A model file does not fit the model; the message says which key, and how."""


def save_pretrained(
    model: DualForce, folder: Path, weights: Mapping[str, Tensor] | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write config and weights (`weights`, an averaged copy say, or the model's own) into `folder`.

    The index is written last and old weights are removed first, so an interrupted save cannot be read as a whole one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("model*.safetensors"), folder / INDEX, folder / CONFIG]:
        old.unlink(missing_ok=True)
    state = dict(model.state_dict() if weights is None else weights)
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor.detach().cpu().contiguous()
        filled += size
    if len(shards) == 1:
        save_file(shards[0], folder / WEIGHTS, metadata={"format": "pt"})
    else:
        where: dict[str, str] = {}
        for n, shard in enumerate(shards, 1):
            file = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(shard, file)
        (folder / INDEX).write_text(json.dumps({"weight_map": where}, indent=1) + "\n", encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=1) + "\n", encoding="utf-8")


def read_config(folder: Path) -> ModelConfig:
    """The config of a saved model. Raises WeightsError or ConfigError."""
    try:
        return ModelConfig.from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{folder} holds no model: {error}") from error


def from_pretrained(
    folder: Path,
    config: ModelConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DualForce:
    """The model saved in `folder`; with `config`, the caller's expectation, which must be what was saved.

    Built on the meta device and filled tensor by tensor, so its weights are in memory once.
    Raises WeightsError for unknown or missing keys, wrong shapes or another config; ConfigError for unknown settings.
    """
    saved = read_config(folder)
    if config is not None and config != saved:
        differing = [name for name, value in saved.to_dict().items() if config.to_dict()[name] != value]
        raise WeightsError(f"{folder} was saved with other settings: {', '.join(differing)} differ")
    with torch.device("meta"):
        model = DualForce(saved)
    expected = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, tensor in tensors(folder, device):
        if name not in expected:
            raise WeightsError(f"{folder} holds {name!r}, which this model has not")
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{name} is {tuple(tensor.shape)} in {folder}, the model's {tuple(expected[name].shape)}"
            )
        found[name] = tensor.to(dtype)
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise WeightsError(f"{folder} lacks {len(missing)} weights, the first {missing[0]!r}")
    model.load_state_dict(found, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def tensors(folder: Path, device: torch.device | str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """All weights in a folder, one at a time: from one file, from several, or from the rows of several processes."""
    if parts := sorted(folder.glob(ROWS)):
        yield from _joined(parts, device)
        return
    if (folder / INDEX).exists():
        where = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(where.values()))
    else:
        files = [WEIGHTS]
    for file in files:
        if not (folder / file).is_file():
            raise WeightsError(f"{folder} lacks {file}")
        with safe_open(folder / file, framework="pt", device=str(device)) as shard:
            for name in shard.keys():  # noqa: SIM118  (not a mapping)
                yield name, shard.get_tensor(name)


def _joined(files: list[Path], device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """Whole tensors from files that hold some rows of each (see `train.shards`)."""
    with ExitStack() as stack:
        found: dict[str, list[tuple[int, Any]]] = {}
        for file in files:
            rows = stack.enter_context(safe_open(file, framework="pt", device=str(device)))
            for name, about in json.loads(rows.metadata()["DCP_SHARDING_INFO"]).items():
                found.setdefault(name, []).append((about["saved_offsets"][0], rows))
        for name, parts in found.items():
            yield name, torch.cat([rows.get_tensor(name) for _, rows in sorted(parts, key=lambda part: part[0])])


__all__ = ["ConfigError", "WeightsError", "from_pretrained", "read_config", "save_pretrained", "tensors"]
