"""Checkpoints written behind the training's back: a copy is taken between two steps, a thread puts it on disk.

Every process writes its own files. The checkpoint gets its marker and its name when all of them are done, which they
find out in the exchange that ends each step anyway; until then it counts for nothing. One at a time: the next save
waits for the one before it, and what goes wrong in the thread is raised in the training.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from dualforce_model.train import checkpoint, shards
from dualforce_model.train.parallel import Parallel


class SaveError(RuntimeError):
    """A checkpoint could not be written; the message says by which process and why."""


class Saver:
    """Writes the checkpoints of one training into `root`, keeping the last `keep` (see `checkpoint.prune`)."""

    def __init__(self, root: Path, parallel: Parallel, keep: int, every: int):
        self.root, self.parallel, self.keep, self.every = root, parallel, keep, every
        self.stalled = 0.0  # seconds that the training stood still for the last save
        self._staged = shards.Staged()
        self._thread: threading.Thread | None = None
        self._reserving: threading.Thread | None = None
        self._pruning: threading.Thread | None = None
        self._step = 0
        self._facts: checkpoint.Facts = {}
        self._error: BaseException | None = None

    def expect(self, size: int) -> None:
        """Make room for checkpoints of so many bytes on this process, meanwhile; only a GPU's memory needs it."""
        if self.parallel.device.type == "cuda":
            self._reserving = threading.Thread(target=self._staged.reserve, args=(size, True), name="staging")
            self._reserving.start()

    @property
    def pending(self) -> bool:
        """Whether a checkpoint waits for its marker: the same on all processes."""
        return self._thread is not None

    @property
    def ready(self) -> bool:
        """Whether this process's files are on disk, or failed to get there."""
        return self._thread is not None and not self._thread.is_alive()

    def begin(self, step: int, files: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, str]) -> None:
        """Save tensors [file][name] and `texts` [file] of this process as its part of checkpoint `step`.

        All processes call it at the same step. Raises SaveError when the save before it failed.
        """
        began = time.perf_counter()
        if self.pending:
            self.finish()
        if self._reserving is not None:
            self._reserving.join()
        copies = self._staged.take(files)
        first = {file: shards.rows(named) for file, named in files.items()}
        folder = checkpoint.unfinished(self.root, step)
        self._step, self._error = step, None
        self._thread = threading.Thread(
            target=self._write, args=(folder, copies, first, dict(texts)), name="checkpoint"
        )
        self._thread.start()
        self.stalled = time.perf_counter() - began

    def _write(
        self,
        folder: Path,
        copies: Mapping[str, Mapping[str, Tensor]],
        first: Mapping[str, Mapping[str, int]],
        texts: Mapping[str, str],
    ) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(1) as hashing:  # of one file, while the next is written
                told = []
                for file, tensors in copies.items():
                    shards.write(folder / file, tensors, first[file])
                    told.append(hashing.submit(checkpoint.facts, folder, [file]))
                for file, text in texts.items():
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / file).write_text(text, encoding="utf-8")
                told.append(hashing.submit(checkpoint.facts, folder, texts))
                self._facts = {name: fact for one in told for name, fact in one.result().items()}
        except Exception as error:  # noqa: BLE001  (raised where the training waits for it)
            self._error = error

    def finish(self) -> None:
        """Wait for the files of all processes, then publish them as a checkpoint. Raises SaveError on all of them."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        parts = self.parallel.gathered((self._facts, None if self._error is None else repr(self._error)))
        failed = [f"process {rank}: {error}" for rank, (_, error) in enumerate(parts) if error is not None]
        if failed:
            raise SaveError(f"checkpoint {checkpoint.name_of(self._step)} in {self.root}: {'; '.join(failed)}")
        if self.parallel.main:
            whole = {name: fact for facts, _ in parts for name, fact in facts.items()}
            checkpoint.publish(self.root, self._step, whole)
            self._settle()
            # tens of GB take a while to remove, and nobody needs to wait for it
            given = (self.root, self._step, self.keep, self.every)
            self._pruning = threading.Thread(target=checkpoint.prune, args=given, name="pruning")
            self._pruning.start()

    def close(self) -> None:
        """Finish what is pending; when this returns, the folder is as it will stay. Raises SaveError."""
        self.finish()
        self._settle()

    def _settle(self) -> None:
        if self._pruning is not None:
            self._pruning.join()
