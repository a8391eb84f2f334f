"""The closed-form weights of the reference outputs, and the reference outputs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file


@pytest.fixture(scope="session")
def golden(shared_data) -> Path:
    folder = shared_data.parent / "design" / "golden"
    assert folder.is_dir(), f"the reference outputs are missing: {folder}"
    return folder


@pytest.fixture(scope="session")
def closed_form(golden):
    spec = importlib.util.spec_from_file_location("closed_form", golden / "closed_form.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def reference(golden, closed_form):
    """name -> (state dict in the official layout, expected outputs)."""

    def read(name: str):
        shapes = json.loads((golden / f"{name}.json").read_text())["state_dict"]
        weights = {key: closed_form.weight(key, tuple(shape)) for key, shape in shapes.items()}
        return weights, load_file(golden / f"{name}.safetensors")

    return read
