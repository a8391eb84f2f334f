"""Whose turn it is: one thread owns the model, and the sessions draw one latent frame each, round and round."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dualforce_model.errors import Rejected, Verdict
from dualforce_model.serve.session import Session

log = logging.getLogger(__name__)
T = TypeVar("T")


class Turns:
    """The scheduler. A session that is not ready is passed over and keeps its place; one that drew goes to the end."""

    def __init__(self) -> None:
        # a single thread: what a model keeps per thread (compiled graphs, streams) is made once, and no lock is needed
        self._thread = ThreadPoolExecutor(1, "model")
        self._order: deque[Session] = deque()
        self._wake = asyncio.Event()
        self.fault: str | None = None  # the first error of the model's thread that was no client's; it stays

    @property
    def sessions(self) -> list[Session]:
        return sorted(self._order, key=lambda session: session.number)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in the model's thread, after the latent that is being drawn."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except Verdict:
            raise
        except Exception as error:
            self.fault = self.fault or type(error).__name__
            raise

    def at_once(self, work: Callable[[], T]) -> T:
        """The same, for those outside the event loop."""
        return self._thread.submit(work).result()

    def enter(self, session: Session) -> None:
        session.wake = self._wake.set
        self._order.append(session)

    async def leave(self, session: Session) -> None:
        """Take a session out; when this returns, its cache is free."""
        self._order.remove(session)
        await self.in_thread(session.release)

    async def run(self) -> None:
        """Give turns until cancelled."""
        while True:
            self._wake.clear()
            while await self._turn():
                pass
            await self._wake.wait()

    async def _turn(self) -> bool:
        """Let the first ready session draw; False when none is ready. Here, so that no name outlives it."""
        session = next((one for one in self._order if one.ready), None)
        if session is None:
            return False
        sound = session.take()
        try:
            frames = await self.in_thread(lambda: session.draw(sound))
        # new errors, because a traceback would hold on to the stream
        except Verdict as error:
            session.fail(type(error)(error.reason, str(error)))
            return True
        except Exception:  # whatever it is, it is this session's, and the others go on
            log.exception("session %d: drawing failed", session.number)
            session.fail(Rejected("internal", "drawing failed; the server's log says why"))
            return True
        if frames and session in self._order:  # too little sound was no turn
            self._order.remove(session)
            self._order.append(session)
        session.deliver(frames)
        return True

    def close(self) -> None:
        """End the thread, after the latent that is being drawn."""
        self._thread.shutdown()
