"""The model with its sessions: who is in, how a picture becomes one, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualforce_model.errors import Rejected
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.origin import Origin, framing_of
from dualforce_model.generate.render import crop_face
from dualforce_model.generate.stream import Stream, latency_s
from dualforce_model.generate.talker import Talker
from dualforce_model.serve.config import ServeConfig
from dualforce_model.serve.protocol import PICTURES, Start, picture_of
from dualforce_model.serve.session import Session
from dualforce_model.serve.turns import Turns
from dualforce_model.timeline import FPS, SAMPLE_RATE


class Studio:
    """One talker for many."""

    def __init__(self, checkpoint: Path, config: ServeConfig, device: str | None = None):
        """Everything that would make a first client wait is done now. Raises BadInput as `Origin.read`, no_device."""
        origin = Origin.read(checkpoint)
        origin.check(config.generate)
        self.config, self.framing = config, framing_of(origin.card)
        self.turns = Turns()
        self.talker = self.turns.at_once(lambda: _prepared(origin, config, device))
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()  # those whose memory is not free yet
        self._faces = ThreadPoolExecutor(1, "faces")  # finding a face takes long and must not stop the drawing
        self._seats = 0
        self._numbers = count(1)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """One of the `sessions` that may be there at once. Raises Rejected busy."""
        if self._seats >= self.config.sessions:
            raise Rejected("busy", f"all {self.config.sessions} sessions of this server are taken; try again later")
        self._seats += 1
        try:
            yield
        finally:
            self._seats -= 1

    @asynccontextmanager
    async def session(self, picture: bytes, start: Start) -> AsyncIterator[Session]:
        """A stream for the one face in a picture's file; its cache is free again afterwards.

        Raises BadInput picture_too_large, no_picture, bad_option, Rejected no_face, several_faces.
        """
        options = start.generate_config(self.config)
        loop = asyncio.get_running_loop()
        face = await loop.run_in_executor(
            self._faces, lambda: crop_face(picture_of(picture, self.config), self.talker.size, self.framing)
        )
        session = await self.turns.in_thread(lambda: self._open(face, options))
        self.turns.enter(session)
        try:
            yield session
        finally:
            await self.turns.leave(session)

    def _open(self, face: np.ndarray, options: GenerateConfig) -> Session:
        stream = Stream(self.talker, face, options)
        self.streams.add(stream)
        room = int(self.config.queue_seconds * SAMPLE_RATE)
        return Session(next(self._numbers), stream, room, self.config.queue_frames)

    async def empty(self) -> None:
        """Wait until everyone has left; the web server has told them to."""
        while self._seats:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """End the threads."""
        self._faces.shutdown()
        self.turns.close()

    @property
    def about(self) -> dict[str, Any]:
        """What a client should know before it connects."""
        limits = ("picture_bytes", "picture_pixels", "session_seconds", "idle_seconds", "queue_seconds")
        generate = dataclasses.asdict(self.config.generate)
        return {
            "size": self.talker.size,
            "fps": FPS,
            "sample_rate": SAMPLE_RATE,
            "latency_s": round(latency_s(self.talker), 3),
            "pictures": [kind.lower() for kind in PICTURES],
            "options": {name: generate[name] for name in self.config.options},
            "limits": {name: getattr(self.config, name) for name in limits}
            | {"steps": self.config.most_steps, "sound_seconds": self.config.generate.max_seconds},
        }

    @property
    def health(self) -> dict[str, Any]:
        """How it stands: `caches` counts the streams that are still in memory, by weak references."""
        fault = self.turns.fault
        said = {"reason": f"the model failed with {fault}; the server's log says more"} if fault else {}
        return {
            "status": "failed" if fault else "ok",
            **said,
            "device": str(self.talker.device),
            "sessions": self._seats,
            "most_sessions": self.config.sessions,
            "caches": len(self.streams),
            "streams": [session.facts for session in self.turns.sessions],
        }


def _prepared(origin: Origin, config: ServeConfig, device: str | None) -> Talker:
    """The talker with a cache for every session, after it has drawn something, so that all is compiled and warm."""
    chosen = config.generate
    torch.set_num_threads(chosen.threads)
    talker = Talker.load(origin, device, chosen.precision, chosen.compiled)
    talker.prepare(chosen, config.sessions)
    with Stream(talker, np.full((talker.size, talker.size, 3), 127, np.uint8), chosen) as stream:
        for _ in stream.push(np.zeros(SAMPLE_RATE, np.float32)):
            pass
    return talker
