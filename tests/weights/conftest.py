"""The misbehaving server, an empty root for weights, and a registry that takes sets made for a test."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from dualforce_model.weights import registry

spec = importlib.util.spec_from_file_location("bad_server", Path(__file__).with_name("server.py"))
bad_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bad_server)


@pytest.fixture(scope="session")
def body():
    return random.Random(0).randbytes(300_000)


@pytest.fixture
def server(body):
    server = bad_server.BadServer()
    server.files["/a.bin"] = body
    yield server
    server.close()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def register(monkeypatch):
    def add(weights):
        monkeypatch.setitem(registry.WEIGHTS, weights.name, weights)
        return weights

    return add
