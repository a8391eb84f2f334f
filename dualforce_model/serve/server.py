"""The process: a port, a model, the web server around them, and a quiet end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from dualforce_model.errors import BadInput
from dualforce_model.serve.app import make_app
from dualforce_model.serve.config import ServeConfig
from dualforce_model.serve.studio import Studio

# What the kernel keeps per connection and direction: some seconds of sound, some frames. Left to grow by themselves,
# its buffers hide for minutes that the other side is slow.
KERNEL_BYTES = 128 * 1024
SHUTDOWN_SECONDS = 5


class _Connection(WebSocketsSansIOProtocol):
    """Cuts off whoever still does not read when all is said, instead of waiting for them for ever."""

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self._cut_off()

    def shutdown(self) -> None:
        super().shutdown()
        self._cut_off()

    def _cut_off(self) -> None:
        if not self.writable.is_set():
            self.transport.abort()


def serve(
    checkpoint: Path,
    config: ServeConfig,
    host: str,
    port: int,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until SIGINT or SIGTERM; `say` gets the address once it answers. Port 0 is any that is free.

    Raises BadInput port_taken before the model is loaded, and what `Studio` raises.
    """
    with suppress(KeyboardInterrupt), listener_at(host, port) as listener:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        studio = Studio(checkpoint, config, device)
        listener.listen()
        name = f"[{host}]" if ":" in host else host
        say(f"http://{name}:{listener.getsockname()[1]}")
        asyncio.run(web_server(studio).serve([listener]))


def web_server(studio: Studio) -> uvicorn.Server:
    """The app of `studio` in its web server."""
    settings = uvicorn.Config(
        make_app(studio),
        ws=_Connection,
        # twice the picture's limit, so that one beyond it is told the reason; beyond this the socket closes (1009)
        ws_max_size=2 * studio.config.picture_bytes,
        ws_per_message_deflate=False,  # frames are compressed already
        ws_ping_interval=None,  # a client that is slowed down answers late; idle_seconds finds those who are gone
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(settings)


def listener_at(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises BadInput port_taken."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # connections inherit them
                listener.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BYTES)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise BadInput("port_taken", f"cannot listen on {host}:{port}: {error}; choose another with --port") from error
    return listener
