"""One client's stream between two bounded queues: sound that waits for the model, frames that wait for the client."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice

import numpy as np

from dualforce_model.generate.stream import Stream
from dualforce_model.timeline import SAMPLE_RATE, STRIDE, latent_of_raw, raw_range


class Session:
    """Everything here runs in the event loop, but `draw`, which runs in the model's thread while nothing else does."""

    def __init__(self, number: int, stream: Stream, queue_samples: int, queue_frames: int):
        self.number = number
        self.frames_sent = 0
        self.wake: Callable[[], None] = lambda: None  # tells the scheduler that this session may be ready
        self._stream: Stream | None = stream
        self._queue_samples, self._queue_frames = queue_samples, queue_frames
        self._sound: deque[np.ndarray] = deque()
        self.waiting_samples = 0  # in it, at 16 kHz
        self._frames: deque[np.ndarray] = deque()
        self._room, self._news = asyncio.Event(), asyncio.Event()
        self._coming: Iterator[np.ndarray] = iter(())  # frames that the sound given to the stream still yields
        self._dry = True  # it yields no more
        self._drawing = False  # a turn was given, and its frames are not there yet
        self._frames_drawn = 0
        self._active = time.monotonic()  # when something last came, was drawn or was sent
        self._ended = self._finishing = self._done = False
        self._failure: BaseException | None = None

    @property
    def waiting_frames(self) -> int:
        """Frames drawn and not sent yet."""
        return len(self._frames)

    async def hear(self, samples: np.ndarray) -> None:
        """Take samples float32 [n] at 16 kHz; returns when there was room for them."""
        while self._sound and self.waiting_samples + len(samples) > self._queue_samples:
            self._room.clear()
            await self._room.wait()
        if len(samples):  # empty pieces would be a queue without end
            self._sound.append(samples)
            self.waiting_samples += len(samples)
            self.wake()
        self._active = time.monotonic()

    def end(self) -> None:
        """No more sound."""
        self._ended = True
        self.wake()

    async def frames(self) -> AsyncIterator[np.ndarray]:
        """The frames, uint8 [size,size,3], as they are drawn. Raises what `fail` was given."""
        while True:
            if self._failure:
                raise self._failure
            if self._frames:
                frame = self._frames.popleft()
                self.wake()
                yield frame
                self.frames_sent += 1
                self._active = time.monotonic()
            elif self._done:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def fail(self, failure: BaseException) -> None:
        """Nothing more is drawn, and whoever waits for frames gets `failure`."""
        self._failure = failure
        self._news.set()

    @property
    def ready(self) -> bool:
        """Whether a latent could be drawn: there may be sound enough, and there is room for its frames."""
        if self._done or self._failure or len(self._frames) + STRIDE > self._queue_frames:
            return False
        return not self._dry or bool(self._sound) or self._ended

    @property
    def idle_s(self) -> float:
        """Seconds in which nothing but more sound was missing: what came is drawn, and what is drawn is sent."""
        if self._sound or self._drawing or not self._dry or self._frames_drawn > self.frames_sent:
            return 0.0
        return time.monotonic() - self._active

    def take(self) -> np.ndarray | None:
        """Begin a turn: all sound that waits, once the stream has used up what it was given; so it is never given much."""
        self._drawing = True
        if not (self._dry and self._sound):
            return None
        sound = np.concatenate(self._sound)
        self._sound.clear()
        self.waiting_samples = 0
        self._room.set()
        return sound

    def draw(self, sound: np.ndarray | None) -> list[np.ndarray]:
        """The frames of the next latent, or none when there is too little sound. Takes the model's time."""
        assert self._stream is not None
        if sound is not None:
            self._coming = self._stream.push(sound)
        elif self._dry and self._ended and not self._finishing:
            self._finishing = True
            self._coming = self._stream.finish()
        wanted = len(raw_range(latent_of_raw(self._stream.frames)))
        drawn = list(islice(self._coming, wanted))
        self._dry = len(drawn) < wanted
        return drawn

    def deliver(self, frames: list[np.ndarray]) -> None:
        """What `draw` returned: the end of the turn."""
        self._drawing = False
        self._frames.extend(frames)
        self._frames_drawn += len(frames)
        self._active = time.monotonic()
        self._done = self._dry and self._finishing
        self._news.set()

    def release(self) -> None:
        """Let go of the stream and its cache. In the model's thread, so never in the middle of a latent."""
        assert self._stream is not None
        self._stream.close()
        self._coming, self._stream = iter(()), None
        self._done = True

    @property
    def facts(self) -> dict[str, float]:
        """What a health check may say of it."""
        return {
            "session": self.number,
            "frames_sent": self.frames_sent,
            "waiting_frames": self.waiting_frames,
            "waiting_seconds": round(self.waiting_samples / SAMPLE_RATE, 3),
        }
