"""A real S3 server in a process of its own, and a wire to it that can be stopped in the middle of an upload."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

from chain import free_port
from s3fs import S3FileSystem
from waiting import until

KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}


@contextlib.contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[str]:
    """The address of a real server with an empty bucket; the environment says how to reach it, for as long as it lives.

    fsspec keeps its clients by their arguments, and the environment is none: one that knows another server's address
    must not be found here, nor this one's afterwards.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reach = {**KEYS, "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    before = {key: os.environ.get(key) for key in reach}
    try:
        until(lambda: _answers(url) or process.poll() is not None, "the S3 server")
        assert process.poll() is None, "the S3 server ended"
        os.environ.update(reach)
        S3FileSystem.clear_instance_cache()
        S3FileSystem().mkdir(name)
        yield url
    finally:
        process.kill()
        process.wait(30)
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        S3FileSystem.clear_instance_cache()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False


class Wire:
    """A TCP proxy that lets everything through but the body of the first upload whose path contains `word`: of that it
    passes on half of what comes first, and then nothing. `caught` is set then.
    """

    def __init__(self, target: str, word: bytes):
        host, port = target.removeprefix("http://").split(":")
        self.target, self.word = (host, int(port)), word
        self.caught = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *trouble: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            theirs = socket.create_connection(self.target)
            threading.Thread(target=self._up, args=(ours, theirs), daemon=True).start()
            threading.Thread(target=_copy, args=(theirs, ours), daemon=True).start()

    def _up(self, ours: socket.socket, theirs: socket.socket) -> None:
        with contextlib.suppress(OSError), theirs:
            while piece := ours.recv(65536):
                first = piece.partition(b"\r\n")[0]
                if first.startswith(b"PUT ") and self.word in first and not self.caught.is_set():
                    head, _, body = piece.partition(b"\r\n\r\n")
                    theirs.sendall(head + b"\r\n\r\n")
                    body = body or ours.recv(65536)
                    theirs.sendall(body[: len(body) // 2])
                    self.caught.set()
                    while ours.recv(65536):  # until the other side is gone
                        pass
                    return
                theirs.sendall(piece)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError), sink:
        while piece := source.recv(65536):
            sink.sendall(piece)
