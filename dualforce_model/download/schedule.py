"""Many videos, a few threads: who goes next, who waits for his back-off, who is left for another run."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from dualforce_model.download.failures import Failure
from dualforce_model.download.manners import Manners

T = TypeVar("T")
LOOK_UP_S = 0.5  # the longest nap, so that an interrupt is noticed


def work_off(
    hosts: Sequence[str],
    attempt: Callable[[int], tuple[T, Failure | None]],
    refuse: Callable[[int, Failure], T],
    manners: Manners,
    stop: threading.Event,
) -> Iterator[tuple[int, T, int]]:
    """Yield (index, outcome, attempts) for every index of `hosts`, as they end.

    `attempt` does one attempt in some thread and says how it failed, if it did; passing failures are tried again after
    their back-off while other videos use the time. `refuse` makes the outcome of a video whose host is left alone. Closing
    the iterator sets `stop` and waits for the attempts under way.
    """
    queues: dict[str, list[tuple[float, int]]] = {}  # per host: (due, index)
    for index, host in enumerate(hosts):
        queues.setdefault(host, []).append((0.0, index))
    tries, counted = [0] * len(hosts), [0] * len(hosts)
    running: dict[Future[tuple[T, Failure | None]], int] = {}
    pool = ThreadPoolExecutor(manners.config.concurrent, thread_name_prefix="download")
    try:
        while running or any(queues.values()):
            wake = math.inf
            for host, queue in queues.items():
                while queue:
                    pause = max(queue[0][0] - manners.clock(), 0.0) or manners.ask(host)
                    if pause == math.inf:
                        for _, index in sorted(queue, key=lambda entry: entry[1]):
                            yield index, refuse(index, manners.refusing(host)), tries[index]
                        queue.clear()
                    elif pause > 0:
                        wake = min(wake, pause)
                        break
                    else:
                        index = heapq.heappop(queue)[1]
                        running[pool.submit(attempt, index)] = index
            nap = min(wake, LOOK_UP_S)
            if not running:
                time.sleep(nap if any(queues.values()) else 0)
                continue
            done, _ = wait(running, nap, FIRST_COMPLETED)
            for future in done:
                index = running.pop(future)
                outcome, failure = future.result()
                tries[index] += 1
                counted[index] += not (failure and failure.progressed)  # one that got on is no step towards giving up
                manners.tell(hosts[index], str(index), failure)
                again = None if failure is None else manners.again(failure, counted[index])
                if again is None:
                    yield index, outcome, tries[index]
                else:
                    heapq.heappush(queues[hosts[index]], (manners.clock() + again, index))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
