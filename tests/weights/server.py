"""A web server that misbehaves on purpose: what it does next stands in a list per path."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BadServer:
    """`files`: path -> bytes. `troubles`: path (of a HEAD: "HEAD " + path) -> what happens to the next requests.

    Troubles: a status (with Retry-After 0; 404), ("status", code, Retry-After or None), ("truncate", n), ("stall", n),
    ("hold",) until `release` is set, ("wrong",), ("no_range",), ("no_length", n), ("chunked", bytes, with an end or not).
    `branches`: as on the Hub, a folder that is another one for now: "/o/r/resolve/main/" -> "/o/r/resolve/c0ffee/".
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, list] = defaultdict(list)
        self.branches: dict[str, str] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.on_request: Callable[[], None] = lambda: None
        self.asked = threading.Event()  # the first request is here
        self.release = threading.Event()  # ends the stalls
        self.now, self.most_at_once = 0, 0
        self._count = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def end_headers(self):
                self.send_header("Connection", "close")  # said, so that no client sends another request down it
                super().end_headers()

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                server.count(1)
                try:
                    server.answer(self)
                finally:
                    server.count(-1)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def count(self, change: int) -> None:
        with self._count:
            self.now += change
            self.most_at_once = max(self.most_at_once, self.now)

    def answer(self, handler) -> None:
        path, wanted, head = handler.path, handler.headers.get("Range"), handler.command == "HEAD"
        self.requests.append((handler.command, path, wanted))
        self.asked.set()
        troubles = self.troubles[f"HEAD {path}" if head else path]
        trouble = troubles.pop(0) if troubles else None
        for branch, folder in self.branches.items():
            path = path.replace(branch, folder)
        self.on_request()
        if path not in self.files:
            trouble = 404
        if isinstance(trouble, int):
            trouble = ("status", trouble, "0")
        kind = trouble[0] if trouble else None
        if kind == "status":
            handler.send_response(trouble[1])
            if trouble[2] is not None:
                handler.send_header("Retry-After", trouble[2])
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body, start = self.files[path], 0
        if kind == "hold":
            self.release.wait(30)
        if kind == "wrong":
            body = bytes(255 - byte for byte in body)
        if kind in ("no_length", "chunked"):
            handler.send_response(200)
            if kind == "chunked":
                handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            piece = body[: trouble[1]] if kind == "no_length" else trouble[1]
            handler.wfile.write(piece if kind == "no_length" else b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.write(b"0\r\n\r\n" if kind == "chunked" and trouble[2] else b"")
            return
        if wanted and kind != "no_range":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("ETag", '"1"')
        if "/resolve/" in path:
            handler.send_header("X-Repo-Commit", path.partition("/resolve/")[2].partition("/")[0])
        handler.end_headers()
        if head:
            return
        end = start + trouble[1] if kind in ("truncate", "stall") else len(body)
        handler.wfile.write(body[start:end])
        handler.wfile.flush()
        if kind == "stall":
            self.release.wait(30)
