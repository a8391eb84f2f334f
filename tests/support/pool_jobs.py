"""Work for real worker processes; in a module of its own, since they import it by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from waiting import until


def job(item):
    kind, value = item
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(600)
    if kind == "raise":
        raise ValueError(value)
    if kind == "die once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "gpu":  # each process takes one item, because it waits until all are taken
        folder, processes = value
        (Path(folder) / str(os.getpid())).touch()
        until(lambda: len(list(Path(folder).iterdir())) == processes, "all processes to have an item")
        return os.environ["CUDA_VISIBLE_DEVICES"]
    if kind == "environment":
        return os.environ.get(value)
    if kind == "threads":
        import cv2
        import torch

        return torch.get_num_threads(), cv2.getNumThreads()
    return value
