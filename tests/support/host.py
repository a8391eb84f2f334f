"""A real http server on this machine that serves real clips and can be told to misbehave, request by request."""

from __future__ import annotations

import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Fault:
    """What one request gets instead of the file: a status, or a transfer that goes wrong after `after` bytes."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # close the connection
    stall_after: int | None = None  # send nothing more until the client leaves
    length: int = 0  # added to the true Content-Length
    content_type: str = "video/mp4"
    body: bytes | None = None


@dataclass
class Request:
    path: str
    first: int  # byte asked for
    sent: int = 0
    look: bool = False  # only the beginning was asked for
    fault: Fault | None = None
    cookie: str = ""
    proxy_authorization: str = ""


class Host:
    """`files` by path; `faults[path]` are used up one per transfer, `always[path]` never; `requests` in order."""

    def __init__(self, port: int = 0):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.busy = 0
        self.most_busy = 0
        self.leave = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, path: str) -> str:
        return f"http://{self.name}{path}"

    def count(self) -> Counter[str]:
        return Counter(request.path for request in self.requests)

    def take(self, path: str) -> Fault | None:
        with self._lock:
            if path in self.always:
                return self.always[path]
            return self.faults[path].pop(0) if self.faults.get(path) else None

    def enter(self, by: int) -> None:
        with self._lock:
            self.busy += by
            self.most_busy = max(self.most_busy, self.busy)

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *trouble: object) -> None:
        self.leave.set()
        self._server.shutdown()
        self._server.server_close()

    def links(self, names: Iterable[str]) -> str:
        return "".join(f"{self.url(f'/{name}')}\n" for name in names)


def _handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            host.enter(1)
            try:
                self._serve()
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                host.enter(-1)

        def _serve(self) -> None:
            path = self.path.partition("?")[0]
            asked = self.headers.get("Range", "")
            first, last = (int(n or -1) for n in (asked or "bytes=0-").removeprefix("bytes=").split("-"))
            fault = host.take(path) or Fault()
            said = {
                name.lower().replace("-", "_"): self.headers.get(name, "") for name in ("Cookie", "Proxy-Authorization")
            }
            request = Request(path, first, look=last >= 0, fault=fault, **said)
            host.requests.append(request)
            data = host.files.get(path) if fault.body is None else fault.body
            if data is None or fault.status != 200:
                status = 404 if data is None and fault.status == 200 else fault.status
                self.send_response(status)
                for name, value in fault.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if asked and first >= len(data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = data[first : last + 1 or len(data)]
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(data)}")
            self.send_header("Content-Type", fault.content_type)
            self.send_header("Content-Length", str(len(body) + fault.length))
            self.end_headers()
            ends = [n for n in (fault.cut_after, fault.stall_after) if n is not None]
            limit = min([len(body) + min(0, fault.length), *ends])
            while request.sent < limit:
                piece = body[request.sent : min(limit, request.sent + 16384)]
                self.wfile.write(piece)
                request.sent += len(piece)
            if fault.stall_after is not None:
                self.wfile.flush()
                host.leave.wait(20)
            if ends or fault.length:
                self.close_connection = True

    return Handler
