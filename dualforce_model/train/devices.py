"""One training process per GPU: whoever trains on one holds its lock file, for exactly as long as the process lives.

So a run that was declared dead while its processes still train, or a second run on the same machine, can't put two of
them on one GPU. Kernel locks end with their process, however it ends; nothing stale is ever left behind.

The files lie where all processes of the machine look, whoever they are and whatever their temporary folder is (services
and jobs of SLURM have one of their own): DUALFORCE_LOCKS, or else /run/lock, or where that can't be written the
temporary folder.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dualforce_model.errors import BadInput

SHARED = Path("/run/lock")
WAIT_S = 60.0  # longer than a process that is told to go may take for its last checkpoint


def named() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names; none when it says nothing."""
    names = (name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return [name for name in names if name not in ("", "-1")]


def mine() -> str | None:
    """Name of this process's GPU: its UUID, or what CUDA_VISIBLE_DEVICES calls it; None on a machine without."""
    import torch

    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_properties(rank % torch.cuda.device_count()).uuid)
    names = named()
    return names[rank % len(names)] if names else None


def place() -> Path:
    """The folder of the lock files."""
    named = os.environ.get("DUALFORCE_LOCKS")
    if named:
        Path(named).mkdir(parents=True, exist_ok=True)
        return Path(named)
    return SHARED if os.access(SHARED, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def held(gpu: str | None, what: str, say: Callable[[str], None] = print, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold `gpu` (None: nothing) while the block runs; `what` tells others what for. Raises BadInput gpu_in_use."""
    if gpu is None:
        yield
        return
    path = place() / f"dualforce-gpu-{gpu}.lock"
    lock = _open(path)
    try:
        _take(lock, path, gpu, say, wait_s)
        if os.access(path, os.W_OK):  # the file may be another user's; the lock is ours all the same
            path.write_text(f"process {os.getpid()}, {what}", encoding="utf-8")
        yield
    finally:
        os.close(lock)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        lock = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        os.fchmod(lock, 0o644)  # a service's umask may keep others from reading it, and so from locking it
        return lock


def _take(lock: int, path: Path, gpu: str, say: Callable[[str], None], wait_s: float) -> None:
    until, told = time.monotonic() + wait_s, False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8") or "another process"
            if time.monotonic() >= until:
                raise BadInput(
                    "gpu_in_use",
                    f"GPU {gpu} is held by {holder}; wait for it to end or choose others (runner.gpus)",
                ) from None
            if not told:
                say(f"waiting: GPU {gpu} is held by {holder}")
                told = True
            time.sleep(0.2)
        else:
            return
