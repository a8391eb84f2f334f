"""Reading ahead while a network works: clips are decoded by threads, and pictures of several clips share a batch.

Decoding and resizing happen in C without Python's lock, so threads suffice. Order is that of the clips, always: the
same clips give the same batches, and so the same bytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dualforce_model.errors import Verdict

T = TypeVar("T")

DEPTH = 64  # items of one clip that wait at most


class _Ahead:
    """One job's items, made by a thread, taken here in order; the thread's exception is raised where it occurred."""

    def __init__(self, make: Callable[[], Iterable[Any]], depth: int):
        self._items: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._make, self._stop = make, threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            for item in self._make():
                if not self._put(("item", item)):
                    return
            self._put(("end", None))
        except BaseException as error:  # noqa: BLE001  (it is raised by whoever takes the items)
            self._put(("error", error))

    def _put(self, entry: tuple[str, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(entry, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def close(self) -> None:
        self._stop.set()

    def __iter__(self) -> Iterator[Any]:
        try:
            while True:
                kind, value = self._items.get()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        finally:
            self.close()


def ahead(jobs: Iterable[Callable[[], Iterable[T]]], readers: int = 1, depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """For each job, in order, an iterator of its items; up to `readers` jobs are worked on by threads at a time."""
    waiting: list[_Ahead] = []
    source = iter(jobs)
    try:
        while True:
            while len(waiting) < readers and (job := next(source, None)) is not None:
                waiting.append(_Ahead(job, depth))
                waiting[-1].thread.start()
            if not waiting:
                return
            yield iter(waiting[0])
            waiting.pop(0).close()
    finally:
        for one in waiting:
            one.close()


@dataclass
class Result:
    """What one job gave: named arrays with one row per picture, or the exception that ended it."""

    arrays: dict[str, np.ndarray] | None = None
    error: Verdict | None = None

    def get(self) -> dict[str, np.ndarray]:
        if self.error is not None:
            raise self.error
        assert self.arrays is not None
        return self.arrays


Forward = Callable[[np.ndarray], Callable[[], dict[str, np.ndarray]]]


def in_batches(
    jobs: Sequence[Callable[[], Iterable[np.ndarray]]], forward: Forward, batch: int, readers: int = 1
) -> Iterator[Result]:
    """Run `forward` over the pictures of all jobs, `batch` at a time; results in order.

    forward: pictures [batch, ...] (the same array is filled again) to a function that waits for the outputs, arrays with
    `batch` rows; so the next batch is filled while the device works. A last, partly filled batch is run whole, because
    another shape may round differently and would be compiled anew.
    """
    buffers: list[np.ndarray] = []
    owners: list[int] = []  # the job of each row of the batch that is being filled
    done: dict[int, list[dict[str, np.ndarray]]] = {}
    results: dict[int, Result] = {}
    left = dict.fromkeys(range(len(jobs)), 0)  # pictures of which the outputs are still to come
    read: set[int] = set()
    running: tuple[list[int], Callable[[], dict[str, np.ndarray]]] | None = None
    turn = out = 0

    def collect() -> None:
        nonlocal running
        if running is None:
            return
        rows, wait = running
        running = None
        outputs = wait()
        for number in dict.fromkeys(rows):
            mine = [row for row, owner in enumerate(rows) if owner == number]
            part = slice(mine[0], mine[-1] + 1)
            done.setdefault(number, []).append({name: value[part].copy() for name, value in outputs.items()})
            left[number] -= len(mine)

    def launch() -> None:
        nonlocal running, turn, owners
        started = forward(buffers[turn % 2])
        rows, owners, turn = owners, [], turn + 1
        collect()
        running = (rows, started)

    def finished() -> Iterator[Result]:
        nonlocal out
        while out in read and (out in results or not left[out]):
            pieces = done.pop(out, [])
            whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]} if pieces else {}
            yield results.pop(out) if out in results else Result(whole)
            out += 1

    for number, items in enumerate(ahead(jobs, readers)):
        try:
            for picture in items:
                if not buffers:
                    buffers = [np.zeros((batch, *picture.shape), picture.dtype) for _ in range(2)]
                buffers[turn % 2][len(owners)] = picture
                owners.append(number)
                left[number] += 1
                if len(owners) == batch:
                    launch()
        except Verdict as error:  # one clip's; the others go on. Any other exception is our fault and ends the work
            results[number] = Result(error=error)
        read.add(number)
        yield from finished()
    if owners:
        launch()
    collect()
    yield from finished()
