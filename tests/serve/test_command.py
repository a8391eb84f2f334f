"""`dualforce serve` as a user starts and stops it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request

import pytest
from chain import ROOT, command
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput
from dualforce_model.serve import ServeConfig
from dualforce_model.serve.server import serve


def test_from_start_to_stop(checkpoint, astronaut, speech):
    """It says its address, draws, and at SIGTERM tells its clients and ends well."""
    arguments = ["serve", "--checkpoint", checkpoint, "--port", 0, "--set", "generate.steps=1", "--set", "sessions=1"]
    process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.stderr.read()
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert json.load(answer)["most_sessions"] == 1
        with connect(f"ws{address.removeprefix('http')}/talk") as client:
            client.send(json.dumps({"type": "start"}))
            client.send(astronaut)
            assert json.loads(client.recv(timeout=60))["type"] == "ready"
            client.send(speech[:16000].tobytes())
            assert client.recv(timeout=60)[8:10] == b"\xff\xd8"  # a JPEG
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as error:
                while True:
                    client.recv(timeout=60)
            assert error.value.rcvd.code == 1012  # the server goes away; it is not the client's fault
        assert process.wait(60) == 0
        errors = process.stderr.read()
        assert "session 1 began" in errors
        assert "session 1 ended after" in errors
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()


def test_a_taken_port_is_said_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"127.0.0.1:{port}.*--port") as error:
            serve(tmp_path / "no checkpoint", ServeConfig(), "127.0.0.1", port)
    assert error.value.reason == "port_taken"


def test_a_wrong_checkpoint_is_said(tmp_path):
    with pytest.raises(BadInput, match="holds none") as error:
        serve(tmp_path, ServeConfig(), "127.0.0.1", 0, "cpu")
    assert error.value.reason == "no_checkpoint"


@pytest.mark.parametrize(
    "wrong",
    [
        {"sessions": 0},
        {"idle_seconds": -1.0},
        {"queue_frames": 3},
        {"queue_seconds": 0.1},
        {"jpeg_quality": 0},
        {"steps": 3},
    ],
)
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ServeConfig(**wrong)
