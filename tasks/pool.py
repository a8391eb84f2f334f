"""Worker processes for CPU-bound work: started once, fed item by item, gone when their parent is gone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from dualforce_model import cores

R = TypeVar("R")


class WorkerDied(Exception):
    """The worker process died (crash, kill, out of memory) while it had this item and nothing else."""


class WorkerHung(Exception):
    """The item took longer than allowed; its worker was stopped."""


class Pool:
    """A fixed number of spawned processes. Threads of one process may share a pool.

    gpus: names as in CUDA_VISIBLE_DEVICES; each process sees one of them, in turn. Without any, what this one sees.
    """

    def __init__(self, processes: int, gpus: Sequence[str] = ()):
        self.processes, self.gpus = processes, tuple(gpus)
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None
        self._users = 0  # threads within `map`

    def map(
        self, function: Callable[[Any], R], items: Sequence[Any], timeout: float
    ) -> Iterator[tuple[int, R | Exception]]:
        """Yield (index, result or exception) as items finish.

        When a worker dies it takes the whole executor along and nobody can say which item did it; so what was
        unfinished is done again one at a time in a process of its own, and the one that kills that is `WorkerDied`.
        """
        with self._lock:
            self._users += 1
        try:
            yield from self._map(function, items, timeout)
        finally:
            with self._lock:
                self._users -= 1

    def _map(
        self, function: Callable[[Any], R], items: Sequence[Any], timeout: float
    ) -> Iterator[tuple[int, R | Exception]]:
        pending: dict[Future[R], int] = {}
        suspects: list[int] = []
        executor = self._start(function)
        remaining = iter(enumerate(items))

        def feed(count: int) -> None:
            for index, item in (pair for _, pair in zip(range(count), remaining, strict=False)):
                try:
                    pending[executor.submit(function, item)] = index
                except (BrokenProcessPool, RuntimeError):  # broken or shut down by another thread
                    suspects.append(index)

        # few enough in flight that `timeout` speaks of work and not of waiting in a queue
        feed(self.processes)
        while pending or suspects:  # suspects alone: the processes were gone before they got anything
            done, _ = wait(pending, timeout=timeout, return_when="FIRST_COMPLETED")
            if pending and not done:
                self._stop(executor)
                suspects += pending.values()
                pending.clear()
            for future in done:
                index = pending.pop(future)
                error = None if future.cancelled() else future.exception()
                if future.cancelled() or isinstance(error, BrokenProcessPool):
                    suspects.append(index)
                elif error is None:
                    yield index, future.result()
                elif isinstance(error, Exception):
                    yield index, error
                else:
                    raise error
            if suspects:
                self._stop(executor)
                suspects += [pending[f] for f in pending]
                pending.clear()
                for index in sorted(suspects):
                    yield index, self._alone(function, items[index], timeout)
                suspects.clear()
                executor = self._start(function)
            feed(self.processes - len(pending))

    def _alone(self, function: Callable[[Any], R], item: Any, timeout: float) -> R | Exception:
        with _executor(1, self.gpus) as executor:
            try:
                _warm(executor, function)
                return executor.submit(function, item).result(timeout)
            except BrokenProcessPool:
                return WorkerDied("the worker process died on this item (crash in a decoder, or out of memory)")
            except TimeoutError:
                _kill(executor)
                return WorkerHung(f"no result after {timeout:g} s; the worker was stopped")
            except Exception as error:  # noqa: BLE001  (it belongs to the item and becomes its row)
                return error

    def _start(self, function: Callable[[Any], Any]) -> ProcessPoolExecutor:
        with self._lock:
            if self._executor is not None:
                return self._executor
            executor = self._executor = _executor(self.processes, self.gpus)
        with contextlib.suppress(BrokenProcessPool, RuntimeError):  # the first item will say so
            _warm(executor, function)
        return executor

    def _stop(self, executor: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._executor is executor:
                self._executor = None
        _kill(executor)

    def pids(self) -> list[int]:
        """Process ids of the workers that are alive."""
        return list(getattr(self._executor, "_processes", None) or {})

    def close(self, unless_used: bool = False) -> None:
        """End the workers; `map` starts others."""
        with self._lock:
            if unless_used and self._users:
                return
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=True)


_pools: dict[tuple[int, tuple[str, ...]], Pool] = {}
_pools_lock = threading.Lock()


def shared(processes: int, gpus: tuple[str, ...] = ()) -> Pool:
    """The pool of this process with that many workers; lives as long as the process, so stages don't start anew."""
    with _pools_lock:
        return _pools.setdefault((processes, gpus), Pool(processes, gpus))


def leave_gpus() -> None:
    """End the idle workers of this process's GPUs: what they keep loaded there is in the way of a training."""
    with _pools_lock:
        for pool in _pools.values():
            if pool.gpus:
                pool.close(unless_used=True)


def _executor(processes: int, gpus: tuple[str, ...]) -> ProcessPoolExecutor:
    # a Dask worker is daemonic, and such may have no children lest they outlive it; ours leave with their parent
    multiprocessing.current_process().daemon = False
    # spawn, never fork: the parent holds threads and locks of Prefect, gRPC and BLAS
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, spawn, _begin_worker, (gpus, spawn.Value("l", 0)))


def _warm(executor: ProcessPoolExecutor, function: Callable[[Any], Any]) -> None:
    """Have a process started and what `function` needs imported: an item's time begins after that."""
    executor.submit(_started, function).result()


def _started(function: Callable[[Any], Any]) -> None:
    """Nothing; to name the function here is to import its module there."""


def _kill(executor: ProcessPoolExecutor) -> None:
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        with contextlib.suppress(OSError):
            process.kill()
    executor.shutdown(wait=False, cancel_futures=True)


def _begin_worker(gpus: tuple[str, ...], begun: Any) -> None:
    if gpus:
        with begun.get_lock():
            turn, begun.value = begun.value, begun.value + 1
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[turn % len(gpus)]
        if os.environ.get("DUALFORCE_DEVICE", "").startswith("cuda"):
            os.environ["DUALFORCE_DEVICE"] = "cuda"  # the only one that the process sees
    cores.one_each()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a worker of a killed run must not go on writing beside its successor
