"""Reading published checkpoints without running what is pickled in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from dualforce_model.weights import WeightsError

# What a pickled tensor is made of. Trainers pickle their settings beside the tensors (EMOCA: OmegaConf, NumPy), which
# torch's own safe mode refuses as a whole; here they come back as inert objects.
_TENSOR_PARTS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
}


class _Inert(dict):  # a dict, because pickled subclasses of dict are filled item by item
    """Stands for any object that is no part of a tensor; swallows its state."""

    def __init__(self, *_: Any, **__: Any):
        super().__init__()

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def add(self, _: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        storage = module in ("torch", "torch.storage") and name.endswith("Storage")
        if storage or (module, name) in _TENSOR_PARTS:
            return super().find_class(module, name)
        return _Inert


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


_PICKLE = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="inert_pickle")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dict in a checkpoint file (safetensors, or torch's formats). Raises WeightsError when there is none."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except Exception as error:  # whatever a damaged pickle makes it raise
        raise WeightsError(f"{path} is no checkpoint that can be read: {type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or isinstance(content, _Inert):
        raise WeightsError(f"{path} holds no dict of tensors")
    return content


def load_exactly(network: nn.Module, tensors: dict[str, Any], path: Path) -> nn.Module:
    """Fill `network` with `tensors`. Raises WeightsError naming what is missing, not known or of another shape."""
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} {list(tensors[name].shape)} for {list(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    problems = [("missing", missing), ("not known", unknown), ("of another shape", shapes)]
    wrong = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems if keys)
    if wrong:
        raise WeightsError(f"{path} does not fit {type(network).__name__}: {wrong}")
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)
