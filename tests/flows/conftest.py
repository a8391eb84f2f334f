from __future__ import annotations

import shutil
from pathlib import Path

import chain
import pytest
from chain import SHARED_CLIPS, call, run_command


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    with chain.prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api


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
