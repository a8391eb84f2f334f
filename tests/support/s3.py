"""A real S3 server in a process of its own, and a wire to it that can be stopped in the middle of an upload."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import fsspec
from chain import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": "secret-of-the-test"}


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while not _answers(url):
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < end, "the S3 server did not come up"
            time.sleep(0.05)
        yield url
    finally:
        process.kill()
        process.wait(30)
        fsspec.filesystem("s3").clear_instance_cache()  # clients that still know this address


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.URLError):
        return False


def environment(url: str) -> dict[str, str]:
    """What a user exports to reach it."""
    return {**KEYS, "AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}


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
