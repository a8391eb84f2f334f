"""The only way out to the network: http(s) to public addresses, on every hop of a redirect, and nothing else.

A list is written by strangers and a redirect by anybody, so neither may reach this machine or its neighbours (a metadata
service, a router, a database). The address is looked at after the connection stands and before a request is sent, so a
name that resolves to something else the second time does not slip through.
"""

from __future__ import annotations

import contextlib
import ipaddress
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from yt_dlp import YoutubeDL
from yt_dlp.networking import _urllib as plain
from yt_dlp.networking.exceptions import HTTPError, RequestError

FILES = (".mp4", ".mov", ".mkv", ".webm", ".m4v", ".avi", ".mpg", ".mpeg", ".ts")  # links to these are no pages
LOOK = 1024  # bytes; yt-dlp decides by the first 512


class LocalAddress(RequestError):
    """A link or redirect leads to an address that is not public, or away from http."""


def check_address(address: str, host: str, port: int, allowed: Iterable[str]) -> None:
    """Raise LocalAddress for an address that is not public, unless `allowed` names its host or host:port."""
    if host in allowed or f"{host}:{port}" in allowed:
        return
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if not ip.is_global or ip.is_multicast:
        raise LocalAddress(f"{host} is not a public address; if you mean it, name it in download.allow_hosts")


def _guarded(base: type, allowed: tuple[str, ...]) -> type:
    class Connection(base):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            try:
                check_address(self.sock.getpeername()[0], self.host, self.port, allowed)
            except LocalAddress:
                self.close()
                raise

    return Connection


class _Hops(urllib.request.BaseHandler):
    """Looks at every request, the redirected ones too, before anything is connected."""

    def __init__(self, allowed: tuple[str, ...]):
        self.allowed = allowed

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        host = (request.host or "").rpartition("@")[2]
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
        name = name.strip("[]").lower()
        with contextlib.suppress(ValueError):  # a name: looked at once it is connected
            check_address(name, name, int(port or (443 if request.type == "https" else 80)), self.allowed)
        if (name == "localhost" or name.endswith((".localhost", ".local", ".internal"))) and not (
            name in self.allowed or host in self.allowed
        ):
            raise LocalAddress(f"{name} is not a public host; if you mean it, name it in download.allow_hosts")
        return request

    https_request = http_request

    def ftp_request(self, request: urllib.request.Request) -> urllib.request.Request:
        raise LocalAddress(f"a redirect leads to {request.type}, not http")

    data_request = ftp_request


class GuardedDownloader(YoutubeDL):
    """yt-dlp with one request handler, the guarded one. `refusal`: the last HTTP error, whose headers yt-dlp drops.

    `seen`: what a plain file's host said of its version and length, "" for other links.
    """

    def __init__(self, params: dict[str, Any], allowed: Iterable[str] = ()):
        self.allowed = tuple(host.lower() for host in allowed)
        self.refusal: HTTPError | None = None
        self.seen = ""
        self._open: list[Any] = []
        self._looking = False
        super().__init__(params)

    def build_request_director(self, handlers: Any, preferences: Any = None) -> Any:
        return super().build_request_director([_handler(self)])

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """While a link is only looked at: of a plain video file no more than its beginning is asked for."""
        self._looking = True
        try:
            yield
        finally:
            self._looking = False
            self.close_responses()

    def close_responses(self) -> None:
        """End transfers that only the look at a link began: yt-dlp leaves them open, and the host goes on sending."""
        while self._open:
            with contextlib.suppress(OSError, ValueError):
                self._open.pop().close()


def _handler(owner: GuardedDownloader) -> type:
    class GuardedRH(plain.UrllibRH):  # type: ignore[misc]
        _SUPPORTED_URL_SCHEMES = ("http", "https")

        def _create_instance(self, proxies: Any, cookiejar: Any, legacy_ssl_support: Any = None) -> Any:
            opener = super()._create_instance(proxies, cookiejar, legacy_ssl_support)
            opener.add_handler(_Hops(owner.allowed))
            for handler in opener.handlers:
                # behind a proxy the peer is the proxy, and names are resolved there
                if isinstance(handler, plain.HTTPHandler) and not proxies:
                    make = handler._make_conn_class
                    handler._make_conn_class = lambda base, req, make=make: _guarded(make(base, req), owner.allowed)
            return opener

        def _send(self, request: Any) -> Any:
            if owner._looking and urlsplit(request.url).path.lower().endswith(FILES) and "Range" not in request.headers:
                request = request.copy()
                request.headers["Range"] = f"bytes=0-{LOOK - 1}"
            try:
                response = super()._send(request)
                if owner._looking and "Range" in request.headers:
                    length = (response.headers.get("Content-Range") or "").rpartition("/")[2]
                    said = (response.headers.get(name) for name in ("ETag", "Last-Modified"))
                    owner.seen = " ".join([*(text or "-" for text in said), length])
            except HTTPError as error:
                owner.refusal = error
                if error.status == 416 and not owner._looking:
                    # the part is whole already. yt-dlp now asks for the length, with headers that still hold the range
                    request.headers.pop("Range", None)
                raise
            owner._open.append(response)
            return response

    return GuardedRH
