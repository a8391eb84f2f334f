"""One core for each process: where many work side by side, the threads of their libraries only stand in each other's way."""

from __future__ import annotations

import os

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def one_each() -> None:
    """Have the libraries that are not loaded yet, here and in processes started from here, work in the calling thread.

    What the user has set stays. One process that encodes clips with the Wan VAE took 744 ms per clip of 49 frames with
    32 threads and 251 with one (32 cores, one H200): copies of pictures are shared out among threads that are busy.
    """
    for name in LIBRARIES:
        os.environ.setdefault(name, "1")
