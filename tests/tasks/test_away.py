"""A Prefect server that is not there for a moment, asked over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.away import again_when_back


@contextmanager
def answering(*codes: int) -> Iterator[str]:
    """Answers its first requests with `codes`, every later one, and all that ask for its health, with 200."""
    left = list(codes)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.endswith("/health") or not left else left.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        yield url
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("code", [502, 503, 504])
def test_a_server_that_says_not_now_is_waited_for(code):
    with answering(code) as url:
        assert again_when_back(lambda: httpx.get(f"{url}/flows").raise_for_status()).status_code == 200


@pytest.mark.parametrize("code", [404, 409, 500])
def test_a_refusal_is_none_that_time_heals(code):
    with answering(code) as url, pytest.raises(httpx.HTTPStatusError, match=str(code)):
        again_when_back(lambda: httpx.get(f"{url}/flows").raise_for_status())
