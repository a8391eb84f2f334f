from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from chain import call
from faults import Server, render_videos, run_of
from faulty_stage import bring_up_to_date


@pytest.fixture(scope="module")
def mortal_server(tmp_path_factory):
    """A real server that tests may kill; every command talks to it."""
    before = dict(os.environ)
    server = Server(tmp_path_factory.mktemp("prefect"))
    yield server
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory) -> Path:
    return render_videos(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mortal_server, tiny_videos) -> tuple[Path, float]:
    """A run that nobody disturbed, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    begun = time.monotonic()
    call(run_of(tiny_videos, folder))
    return folder, time.monotonic() - begun


@pytest.fixture(scope="session")
def untroubled(tmp_path_factory) -> Path:
    """The faulty stage without a fault."""
    folder = tmp_path_factory.mktemp("untroubled") / "run"
    bring_up_to_date(folder)
    return folder
