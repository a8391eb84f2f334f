"""The web app: a page, two JSON answers, and the socket that talks."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from dualforce_model.errors import BadInput, Rejected, Verdict
from dualforce_model.serve.protocol import Sound, Start, error_message, frame_message, read_json
from dualforce_model.serve.session import Session
from dualforce_model.serve.studio import Studio
from dualforce_model.timeline import FPS

PAGE = Path(__file__).parent / "page"
# the page is all there is: nothing from elsewhere, no framing by others, the microphone for itself only
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "Permissions-Policy": "microphone=(self)",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
CLOSE_CODES = {"busy": 1013, "internal": 1011}  # of RFC 6455's registry: try again later, internal error
POLICY = 1008  # every other refusal
FAREWELL_SECONDS = 2.0  # for the last words to a client that may not listen any more

log = logging.getLogger(__name__)


def make_app(studio: Studio) -> FastAPI:
    """The app of one studio, which it closes at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        turns = asyncio.create_task(studio.turns.run())
        yield
        await studio.empty()
        turns.cancel()
        studio.close()

    # without its pages of documentation, which would load scripts from elsewhere
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> JSONResponse:
        reason = "not_found" if error.status_code == 404 else "bad_request"
        return JSONResponse(error_message(BadInput(reason, str(error.detail))), error.status_code)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/health")
    async def health() -> JSONResponse:
        health = studio.health
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    @app.get("/about")
    async def about() -> dict[str, Any]:
        return studio.about

    @app.websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        origin = socket.headers.get("origin")
        if not may_connect(origin, studio.config.origins):
            refusal = Rejected("wrong_origin", f"pages of {origin} may not use this server (origins)")
            await socket.send_denial_response(JSONResponse(error_message(refusal), 403))
            return
        await socket.accept()
        with suppress(WebSocketDisconnect):  # whoever left needs no answer
            await _answer(socket, studio)

    @app.websocket("/{path:path}")
    async def elsewhere(socket: WebSocket) -> None:
        await socket.send_denial_response(
            JSONResponse(error_message(BadInput("not_found", "the socket is /talk")), 404)
        )

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def may_connect(origin: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a page may open the socket: browsers let any site try, and say which it is.

    Pages of this machine may, and those that are allowed by name. Programs say nothing and may.
    """
    if origin is None or origin in allowed:
        return True
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _answer(socket: WebSocket, studio: Studio) -> None:
    """One client from its first word to the last."""
    limit = studio.config.session_seconds
    try:
        with studio.seat():
            try:
                async with asyncio.timeout(limit):
                    await _converse(socket, studio)
            except TimeoutError:
                raise Rejected("session_too_long", f"a session lasts at most {limit:g} s") from None
            except (Verdict, WebSocketDisconnect):
                raise
            except Exception as error:
                log.exception("a session failed")
                raise Rejected("internal", "the session failed; the server's log says why") from error
    except Verdict as error:
        await _say_and_close(socket, error_message(error), CLOSE_CODES.get(error.reason, POLICY))


async def _say_and_close(socket: WebSocket, words: dict[str, Any], code: int) -> None:
    with suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await socket.send_json(words)
            await socket.close(code, words.get("reason"))


async def _converse(socket: WebSocket, studio: Studio) -> None:
    config = studio.config
    start = Start.read(_text(await _message(socket, config.idle_seconds)))
    picture = _bytes(await _message(socket, config.idle_seconds))
    async with studio.session(picture, start) as session:
        del picture
        log.info("session %d began", session.number)
        sound = Sound(start.rate, config)
        await socket.send_json(
            {"type": "ready", "session": session.number, "most_samples": sound.most_samples} | studio.about
        )
        listening = asyncio.create_task(_listen(socket, session, sound, config.idle_seconds))
        try:
            await _show(socket, session, start.format, studio)
        finally:
            listening.cancel()
            log.info("session %d ended after %d frames", session.number, session.frames_sent)


async def _listen(socket: WebSocket, session: Session, sound: Sound, idle_seconds: float) -> None:
    """Sound into the session until its end. While there is no room for more, the socket is not read."""
    try:
        while True:
            message = await _sound(socket, session, idle_seconds)
            if isinstance(message, str):
                break
            await session.hear(sound.take(message))
        read_json(message, "end")
        await session.hear(sound.rest())
        session.end()
        await _message(socket, None)
        raise BadInput("bad_message", "nothing was expected after the end of the sound")
    except (Verdict, WebSocketDisconnect) as error:
        session.fail(error)


async def _sound(socket: WebSocket, session: Session, idle_seconds: float) -> str | bytes:
    """The next message. Time counts only while nothing else is missing: who waits for the model is not idle."""
    coming = asyncio.ensure_future(socket.receive())
    try:
        while not coming.done():
            if (left := idle_seconds - session.idle_s) <= 0:
                raise _idle(idle_seconds)
            await asyncio.wait([coming], timeout=left)
        return _content(coming.result())
    finally:
        coming.cancel()


async def _show(socket: WebSocket, session: Session, kind: str, studio: Studio) -> None:
    """Frames of the session to the client until the last."""
    config, frames = studio.config, 0
    async for frame in session.frames():
        message = await asyncio.to_thread(frame_message, frames, frame, kind, config.jpeg_quality)
        await _send(socket.send_bytes(message), config.idle_seconds)
        frames += 1
    words = {"type": "end", "frames": frames, "seconds": frames / FPS}
    await _send(socket.send_json(words), config.idle_seconds)
    await socket.close()


async def _send(sending: Awaitable[None], seconds: float) -> None:
    """The socket takes a message only when the client took most of what was sent before."""
    try:
        await asyncio.wait_for(sending, seconds)
    except TimeoutError:
        raise Rejected("client_too_slow", f"no frame was taken for {seconds:g} s (idle_seconds)") from None


async def _message(socket: WebSocket, seconds: float | None) -> str | bytes:
    try:
        return _content(await asyncio.wait_for(socket.receive(), seconds))
    except TimeoutError:
        assert seconds is not None
        raise _idle(seconds) from None


def _idle(seconds: float) -> Rejected:
    return Rejected("idle", f"nothing came for {seconds:g} s (idle_seconds)")


def _content(message: MutableMapping[str, Any]) -> str | bytes:
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    text: str | None = message.get("text")
    return message["bytes"] if text is None else text  # type: ignore[no-any-return]


def _text(message: str | bytes) -> str:
    if isinstance(message, bytes):
        raise BadInput("bad_message", 'expected {"type": "start", ...} as JSON text, got bytes')
    return message


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise BadInput("bad_message", "expected the picture's file as bytes, got text")
    return message
