"""Tensors in files, spread as they are in memory: each process writes the rows that it holds, any number reads them back.

A whole tensor lies in a plain safetensors file. Spread over n processes, a folder has one file per process,
shard-00001-of-00002.safetensors; its header says under DCP_SHARDING_INFO where each tensor's rows begin. That is the
safetensors layout of torch.distributed.checkpoint, which reads it back (`HuggingFaceStorageReader`); unlike that
library's own default, nothing in it is a pickle. Its writer is not used: it orders headers differently from run to run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from dualforce_model.errors import BadInput
from dualforce_model.train.parallel import first_row, local

ROWS = "DCP_SHARDING_INFO"


class Staged:
    """Memory on the host for what one process writes, taken once; page-locked for a GPU, so that copies are fast."""

    def __init__(self) -> None:
        self._room = torch.empty(0)

    def reserve(self, size: int, locked: bool) -> None:
        """Have room for so many bytes. Locking pages takes seconds for tens of GB: better before the first copy."""
        if self._room.numel() < size:
            self._room = torch.empty(size, dtype=torch.uint8, pin_memory=locked)

    def take(self, files: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copies of all tensors [file][name], as they are now; the next call overwrites them.

        Returns when they are there, so that training may go on with the originals.
        """
        flat = [(file, name, local(x).detach()) for file, named in files.items() for name, x in named.items()]
        device = next((x.device for _, _, x in flat if x.is_cuda), None)
        self.reserve(sum(_room(x) for _, _, x in flat), device is not None)
        copies: dict[str, dict[str, Tensor]] = {file: {} for file in files}
        used = 0
        for file, name, x in flat:
            copy = self._room[used : used + x.nbytes].view(x.dtype).view(x.shape)
            copy.copy_(x, non_blocking=True)
            copies[file][name] = copy
            used += _room(x)
        if device is not None:
            torch.cuda.synchronize(device)
        return copies


def _room(x: Tensor) -> int:
    return -(-x.nbytes // 64) * 64  # every copy begins where any number may


def rows(named: Mapping[str, Tensor]) -> dict[str, int]:
    """Where this process's rows of each tensor begin, for those that are spread."""
    return {name: first for name, x in named.items() if (first := first_row(x)) is not None}


def write(path: Path, tensors: Mapping[str, Tensor], first: Mapping[str, int]) -> None:
    """Write CPU tensors; `first` says of those that are spread where their rows begin. Same input, same bytes."""
    held = {name: x for name, x in tensors.items() if x.numel() or name not in first}
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"format": "pt"}
    if first:  # one entry alone: safetensors writes several in no fixed order
        offsets = {
            name: {"saved_offsets": [first.get(name, 0), *[0] * (x.ndim - 1)][: x.ndim]} for name, x in held.items()
        }
        header = {ROWS: json.dumps(offsets, sort_keys=True)}
    save_file(held, path, metadata=header)


def stored(folder: Path) -> dict[str, torch.Size]:
    """Names and whole shapes of the tensors in a folder."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: about.size for name, about in found.items()}  # type: ignore[union-attr]


def read(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, spread in any way, from a folder that any number of processes wrote. Each reads what it holds.

    Raises BadInput when a tensor is missing there or has another shape.
    """
    there = stored(folder)
    for name, tensor in into.items():
        if there.get(name) != tensor.shape:
            is_there = f"has shape {tuple(there[name])}" if name in there else "is missing"
            raise BadInput("foreign_checkpoint", f"{folder}: {name} {is_there}, expected {tuple(tensor.shape)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each process reads for itself, on purpose
        load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
