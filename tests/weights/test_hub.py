"""Sets on the Hub: its metadata, its troubles, and one commit for all files of a set."""

from __future__ import annotations

import pytest

from dualforce_model.weights import WeightsError
from dualforce_model.weights.download import Patience
from dualforce_model.weights.fetch import fetch
from dualforce_model.weights.place import pins_of, read_pins
from dualforce_model.weights.registry import File, Weights

PATIENCE = Patience(stall_s=0.3, tries=3, first_wait_s=0.0)
MAIN, OLD, NEW = "/o/r/resolve/main/", "/o/r/resolve/c0ffee/", "/o/r/resolve/beef/"


@pytest.fixture
def on_the_hub(server, root, register, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    server.files |= {f"{OLD}a": b"old a", f"{OLD}b": b"old b", f"{NEW}a": b"new a", f"{NEW}b": b"new b"}
    server.branches[MAIN] = OLD
    return register(Weights("h", "test", "hf:o/r", "main", (File("a"), File("b")), "MIT"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def asked_for_files(server):
    return [(method, path) for method, path, _ in server.requests if "/resolve/" in path]


def test_all_files_come_from_one_commit(server, on_the_hub):
    server.on_request = lambda: asked_for_files(server) and server.branches.update({MAIN: NEW})  # moves when asked for
    assert contents(fetch(on_the_hub, patience=PATIENCE)) == {"a": b"old a", "b": b"old b"}
    asked = asked_for_files(server)
    assert asked[0] == ("HEAD", f"{MAIN}a")
    assert sorted(asked[1:]) == [(method, OLD + name) for method in ("GET", "HEAD") for name in "ab"]
    assert read_pins("h").commit == "c0ffee"


def test_the_commit_outlives_a_fetch_that_fails_and_changes_with_again(server, root, on_the_hub):
    server.troubles[f"{OLD}b"] = [404]
    with pytest.raises(WeightsError, match=r"resolve/c0ffee/b: the server answers 404"):
        fetch(on_the_hub, patience=PATIENCE)
    assert contents(root / "h") == {"a": b"old a"}
    server.branches[MAIN] = NEW
    assert contents(fetch(on_the_hub, patience=PATIENCE)) == {"a": b"old a", "b": b"old b"}
    before = pins_of("h").read_bytes()
    server.troubles[f"{NEW}b"] = [404]
    with pytest.raises(WeightsError, match=r"resolve/beef/b: the server answers 404"):
        fetch(on_the_hub, again=True, patience=PATIENCE)
    assert pins_of("h").read_bytes() == before
    assert contents(fetch(on_the_hub, again=True, patience=PATIENCE)) == {"a": b"new a", "b": b"new b"}
    assert read_pins("h").commit == "beef"


def test_a_busy_hub_is_asked_for_metadata_again(server, on_the_hub):
    server.troubles[f"HEAD {MAIN}a"] = [429, 503]  # the Hub's own client waits a second longer than it is told to
    assert contents(fetch(on_the_hub, patience=PATIENCE)) == {"a": b"old a", "b": b"old b"}
    assert asked_for_files(server).count(("HEAD", f"{MAIN}a")) == 3


def test_metadata_that_cannot_be_had_name_the_address(server, root, on_the_hub):
    del server.branches[MAIN]
    with pytest.raises(WeightsError, match=r"/o/r/resolve/main/a: .*404"):
        fetch(on_the_hub, patience=PATIENCE)
    assert not (root / "h").exists()
