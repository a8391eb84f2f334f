from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import untrained
from PIL import Image
from skimage import data
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from waiting import until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from dualforce_model import config as strict
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.inputs import read_sound
from dualforce_model.generate.render import crop_face
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker
from dualforce_model.serve import ServeConfig
from dualforce_model.serve.server import listener_at, web_server
from dualforce_model.serve.studio import Studio

STEPS = 1


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    return untrained.write_checkpoint(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="session")
def talker(checkpoint) -> Talker:
    return Talker.load(checkpoint, "cpu")


@pytest.fixture(scope="session")
def astronaut() -> bytes:
    """A NASA portrait, as the png file that a browser would send."""
    out = io.BytesIO()
    Image.fromarray(data.astronaut()).save(out, "png")
    return out.getvalue()


@pytest.fixture(scope="session")
def face(talker) -> np.ndarray:
    return crop_face(data.astronaut(), talker.size)


@pytest.fixture(scope="session")
def speech(shared_data) -> np.ndarray:
    """1.6 s and a bit: the last frame is not full."""
    return read_sound(shared_data / "audio" / "echomimic_en.wav", 600, 40 / 25)[: 39 * 640 + 100]


@pytest.fixture(scope="session")
def drawn(talker, face) -> Callable[..., np.ndarray]:
    """What `dualforce generate` would encode: the frames of a sound, in one go."""

    def draw(sound: np.ndarray, **options: Any) -> np.ndarray:
        stream = Stream(talker, face, GenerateConfig(**{"steps": STEPS} | options))
        return np.stack([*stream.push(sound), *stream.finish()])

    return draw


class Server:
    """A real server on a real port, in a thread of this process, so that its memory can be looked at."""

    def __init__(self, checkpoint: Path, **limits: Any):
        config = strict.build(ServeConfig, {"generate": {"steps": STEPS}} | limits)
        self.studio = Studio(checkpoint, config, "cpu")
        self._listener = listener_at("127.0.0.1", 0)
        self._listener.listen()
        self.name = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.name}"
        self._web = web_server(self.studio)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._web.serve([self._listener])))
        self._thread.start()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    @property
    def health(self) -> dict[str, Any]:
        return self.get("/health")

    @property
    def connections(self) -> list[Any]:
        """Open WebSockets."""
        return [one for one in self._web.server_state.connections if isinstance(one, WebSocketsSansIOProtocol)]

    def stop(self) -> None:
        self._web.should_exit = True
        self._thread.join(60)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def serving(checkpoint) -> Iterator[Callable[..., Server]]:
    """Servers with limits of one's choice; they live until the tests end."""
    servers: list[Server] = []

    def start(**limits: Any) -> Server:
        servers.append(Server(checkpoint, **limits))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(serving) -> Server:
    """The usual one, with guidance of one's choice. Whoever leaves a session behind breaks the next test."""
    return serving(sessions=2, options=["seed", "steps", "guidance_audio", "guidance_reference"])


class Client:
    """One that speaks the protocol, and keeps what it got."""

    def __init__(self, socket: ClientConnection):
        self.socket = socket
        self.frames: list[np.ndarray] = []
        self.numbers: list[tuple[int, int]] = []  # frame, milliseconds
        self.formats: set[str | None] = set()

    def start(self, picture: bytes, **start: Any) -> dict[str, Any]:
        """Say what is wanted; what the server answers."""
        self.say("start", **start)
        self.socket.send(picture)
        return self.answer()

    def say(self, kind: str, **more: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **more}))

    def hear(self, sound: np.ndarray, pieces: int = 1000) -> None:
        for first in range(0, len(sound), pieces):
            self.socket.send(sound[first : first + pieces].astype("<f4").tobytes())

    def answer(self, seconds: float = 60) -> dict[str, Any]:
        """The next JSON message; frames on the way are kept."""
        while (message := self._next(seconds)) is None:
            pass
        return message

    def frame(self) -> None:
        """The next message, which is a frame."""
        message = self._next(60)
        assert message is None, message

    def _next(self, seconds: float) -> dict[str, Any] | None:
        message = self.socket.recv(timeout=seconds)
        if isinstance(message, str):
            return json.loads(message)
        self.numbers.append(struct.unpack("<II", message[:8]))
        with Image.open(io.BytesIO(message[8:])) as image:
            self.formats.add(image.format)
            self.frames.append(np.asarray(image))
        return None

    def closed(self) -> int:
        """The code with which the server closes."""
        with pytest.raises(ConnectionClosed) as error:
            self.socket.recv(timeout=60)
        assert error.value.rcvd is not None
        return error.value.rcvd.code

    def vanish(self) -> None:
        """As when the process is killed and the machine with it: no farewell, a reset."""
        raw = self.socket.socket
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.shutdown(socket.SHUT_RD)
        raw.close()


@contextmanager
def talking(server: Server, **more: Any) -> Iterator[Client]:
    with connect(f"ws://{server.name}/talk", max_size=None, **more) as socket:
        yield Client(socket)


@pytest.fixture(scope="session")
def talk() -> Callable[..., Any]:
    return talking


@pytest.fixture(scope="session")
def wait() -> Callable[..., Any]:
    return until


@pytest.fixture
def nothing_left(server, wait):
    """After every test the usual server is empty again, and its memory too."""
    yield
    wait(lambda: (server.health["sessions"], server.health["caches"]) == (0, 0))
