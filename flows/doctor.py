"""`dualforce doctor`: what is installed, what is missing, and what it is needed for."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from flows import server

PACKAGES = {
    "prefect": "the workflow",
    "torch": "training and generation",
    "accelerate": "launching training",
    "mediapipe": "faces, struct and FLAME backends `mediapipe`",
    "av": "reading and writing video (brings FFmpeg along)",
    "yt-dlp": "fetching the videos of dataset lists",
    "insightface": "faces backend with weights, demo clips",
    "transformers": "HuBERT and UMT5 backends",
    "diffusers": "Wan VAE backend",
}


def examine() -> list[dict[str, Any]]:
    """One finding per line: what, ok, needed (an error when missing), detail."""
    rows = [_row("python", (3, 11) <= sys.version_info[:2] < (3, 13), True, sys.version.split()[0])]
    for name, purpose in PACKAGES.items():
        try:
            rows.append(_row(name, True, True, f"{importlib.metadata.version(name)}, for {purpose}"))
        except importlib.metadata.PackageNotFoundError:
            rows.append(_row(name, False, True, f"for {purpose}; pip install -c constraints.txt -e ."))
    rows.append(_gpu())
    rows += _weights()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    rows.append(_row("disk", free > 5, False, f"{free:.0f} GiB free in {Path.cwd()}"))
    rows.append(_row("cores", True, False, str(len(os.sched_getaffinity(0)))))
    api = os.environ.get("PREFECT_API_URL", server.url(server.PORT))
    answer = "answers" if server.healthy(api) else "no answer; `dualforce up` starts it (runs work without)"
    rows.append(_row("prefect server", server.healthy(api), False, f"{api}: {answer}"))
    return rows


def _row(what: str, ok: bool, needed: bool, detail: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "needed": needed, "detail": detail}


def _weights() -> list[dict[str, Any]]:
    """None is needed: every stage has an embedded backend."""
    from dualforce_model.weights import WEIGHTS
    from dualforce_model.weights.place import missing

    rows = []
    for one in WEIGHTS.values():
        detail = f"for {one.purpose}; `dualforce weights fetch {one.name}`"
        rows.append(_row(f"weights {one.name}", not missing(one.name), False, detail))
    return rows


def _gpu() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
        return _row("gpu", True, False, names)
    return _row("gpu", False, False, "none: small presets train on the CPU, mova_lite needs a GPU")
