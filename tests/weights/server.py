"""A web server that misbehaves on purpose: what it does next stands in a list per path."""

from __future__ import annotations

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class BadServer:
    """`files`: path -> bytes. `troubles`: path -> list of what happens to the next requests, then all is well.

    Troubles: a status (429, 503 with Retry-After 0; 404), ("truncate", n), ("stall", n), ("wrong",), ("no_range",).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.troubles: dict[str, list] = defaultdict(list)
        self.requests: list[tuple[str, str, str | None]] = []
        self.release = threading.Event()  # ends the stalls
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                server.answer(self)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler) -> None:
        path, wanted = handler.path, handler.headers.get("Range")
        self.requests.append((handler.command, path, wanted))
        handler.close_connection = True
        trouble = self.troubles[path].pop(0) if handler.command == "GET" and self.troubles[path] else None
        if path not in self.files:
            trouble = 404
        if isinstance(trouble, int):
            handler.send_response(trouble)
            handler.send_header("Retry-After", "0")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        kind = trouble[0] if trouble else None
        body, start = self.files[path], 0
        if kind == "wrong":
            body = bytes(255 - byte for byte in body)
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
        handler.send_header("X-Repo-Commit", "c0ffee")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        end = start + trouble[1] if kind in ("truncate", "stall") else len(body)
        handler.wfile.write(body[start:end])
        handler.wfile.flush()
        if kind == "stall":
            self.release.wait(30)
