from __future__ import annotations

import shutil

import chain
import pytest
from chain import SMALL, call, run_command
from s3 import s3_bucket


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory):
    with chain.prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api


@pytest.fixture(scope="module")
def videos(tmp_path_factory, shared_data):
    """Two good ones (so that two workers have something to do) and one without a face."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("first", "second"):
        shutil.copy(shared_data / "clips" / "good_hdtf_may_512_25.mp4", folder / f"{name}.mp4")
    shutil.copy(shared_data / "clips" / "bad_noface_7frames_2fps.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory, prefect_server, videos):
    """The whole chain as everybody has it, in threads and worker processes of one machine."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    call(run_command(videos, run_dir, sets=[*SMALL, "runner.workers=1"]))
    return run_dir


@pytest.fixture(scope="module")
def bucket(prefect_server):
    with s3_bucket():
        yield "s3://bucket"
