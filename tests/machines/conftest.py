from __future__ import annotations

import os
import shutil

import pytest
from chain import SMALL, call, free_port, run_command
from s3 import environment, s3_server

from flows import server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """A real server on loopback with a database of its own; every command and every worker of the tests talks to it."""
    port = free_port()
    before = dict(os.environ)
    os.environ.update(PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")), PREFECT_API_URL=server.url(port))
    process = server.start(port)
    yield server.url(port)
    process.terminate()
    process.wait(30)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def videos(tmp_path_factory, shared_data):
    """Two good ones (so that two workers have something to do) and one without a face."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("first", "second"):
        shutil.copy(shared_data / "clips" / "good_hdtf_may_512_25.mp4", folder / f"{name}.mp4")
    shutil.copy(shared_data / "clips" / "bad_noface_7frames_2fps.mp4", folder)
    return folder


@pytest.fixture(scope="session")
def on_one_machine(tmp_path_factory, prefect_server, videos):
    """The whole chain as everybody has it, in threads and worker processes of one machine."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    call(run_command(videos, run_dir, sets=[*SMALL, "runner.workers=1"]))
    return run_dir


@pytest.fixture(scope="session")
def bucket(prefect_server):
    """A bucket on a real S3 server, which the environment says how to reach."""
    with s3_server() as url:
        os.environ.update(environment(url))
        import fsspec

        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
