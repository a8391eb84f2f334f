from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from chain import SHARED_CLIPS, call, free_port, run_command

from flows import server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """A real server on loopback with a database of its own; every command of the tests talks to it."""
    port = free_port()
    home = tmp_path_factory.mktemp("prefect")
    before = dict(os.environ)
    os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=server.url(port))
    process = server.start(port)
    yield server.url(port)
    process.terminate()
    process.wait(30)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def videos(tmp_path_factory, shared_data) -> Path:
    """Four real clips: two good ones, a silent one, one without a face; and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for name in SHARED_CLIPS:
        shutil.copy(shared_data / "clips" / name, folder / name)
    (folder / "notes.mp4").write_text("this is text")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory, prefect_server, videos) -> Path:
    """A run that nobody disturbed. Tests copy it; none changes it."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    call(run_command(videos, run_dir))
    return run_dir


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A copy of the finished run that a test may change, with the files' times kept."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, symlinks=True)
    return folder
