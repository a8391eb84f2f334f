"""How hosts are treated: so many videos at a time, pauses, back-off with jitter, and a circuit breaker. No network in here."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.failures import REFUSALS, Failure

BUSY_S = 0.05  # until a slot that somebody else holds is looked at again


@dataclass
class _Host:
    busy: int = 0
    next_start: float = 0.0
    refused: set[str] = field(default_factory=set)  # videos refused since the host last gave one
    pauses: int = 0  # in a row; above 0 one video at a time tries whether it serves again
    closed_until: float = 0.0
    given_up: bool = False


class Manners:
    """Shared by all threads of a run. `ask` before an attempt, `tell` after it."""

    def __init__(
        self, config: DownloadConfig, clock: Callable[[], float] = time.monotonic, draw: random.Random | None = None
    ):
        self.config, self.clock, self.draw = config, clock, draw or random.Random()
        self.retries_left = config.retry_budget
        self._hosts: dict[str, _Host] = {}
        self._busy = 0
        self._lock = threading.Lock()

    def ask(self, host: str) -> float:
        """0: begin now, a slot is taken. Else the seconds after which to ask again; infinity: never in this run."""
        with self._lock:
            state, now = self._hosts.setdefault(host, _Host()), self.clock()
            if state.given_up:
                return math.inf
            if now < state.closed_until:
                return state.closed_until - now
            most = 1 if state.pauses else self.config.per_host
            if state.busy >= most or self._busy >= self.config.concurrent:
                return BUSY_S
            if now < state.next_start:
                return state.next_start - now
            state.next_start = now + self.config.pause_s * self.draw.uniform(0.5, 1.5)
            state.busy += 1
            self._busy += 1
            return 0.0

    def tell(self, host: str, video: str, failure: Failure | None) -> None:
        """How an attempt ended; gives its slot back."""
        with self._lock:
            state = self._hosts[host]
            state.busy -= 1
            self._busy -= 1
            if failure is None or failure.kind not in REFUSALS or failure.progressed:
                state.refused.clear()  # it answers; what is wrong is the video's own matter
                state.pauses = 0
                return
            state.refused.add(video)
            if self.clock() < state.closed_until or state.given_up:
                return  # an attempt that had begun before the host was closed
            if state.pauses or len(state.refused) >= self.config.breaker:
                if state.pauses >= self.config.breaker_pauses:
                    state.given_up = True
                    return
                state.closed_until = self.clock() + self.config.breaker_pause_s * 2**state.pauses
                state.pauses += 1

    def again(self, failure: Failure, counted: int) -> float | None:
        """Seconds until the next attempt after `counted` failed ones, or None when there is none in this run."""
        if not failure.passing or counted > self.config.retries or failure.retry_after_s > self.config.max_backoff_s:
            return None
        with self._lock:
            if self.retries_left <= 0:
                return None
            self.retries_left -= 1
        longest = min(self.config.max_backoff_s, self.config.backoff_s * 2 ** max(0, counted - 1))
        # full jitter: clients that failed together must not come back together
        return max(failure.retry_after_s, self.draw.uniform(0, longest))

    def refusing(self, host: str) -> Failure:
        """What becomes of a video whose host is left alone."""
        return Failure("host_refusing", f"{host} refused one video after the other and is left alone; try again later")
