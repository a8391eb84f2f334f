"""One safetensors file per clip and feature; its header carries provenance and the digest of its own data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dualforce_model.store.publish import publish


def data_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], provenance: Mapping[str, Any]) -> None:
    """Publish arrays with `provenance` (plain data; must hold `identity`) in the header. Same input, same bytes."""
    # one header entry, because safetensors writes several in no fixed order and artifacts must be equal byte for byte
    whole = {**provenance, "data_sha256": data_digest(tensors)}
    header = {"dualforce": json.dumps(whole, sort_keys=True, allow_nan=False)}
    with publish(path) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, temporary, metadata=header)


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance of an artifact. Raises SafetensorError or KeyError when the file is none of ours."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["dualforce"])  # type: ignore[no-any-return]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an artifact."""
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)


def intact(path: Path, identity: str) -> bool:
    """Whether `path` is a whole artifact of this identity: header readable, identity equal, data equal to its digest."""
    try:
        provenance = read_provenance(path)
        return provenance["identity"] == identity and provenance["data_sha256"] == data_digest(read_tensors(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
