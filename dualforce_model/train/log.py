"""The training log: JSON lines, and the same numbers as TensorBoard events. After a resume both read as if undisturbed.

log.jsonl, one line per logged step: step, loss, loss_<term>, grad_norm, lr, skipped, deciles_<stream> (ten means, null
where no frame had such a level), norm_<term>, and, different from run to run, seconds, data_seconds, tokens_per_s, tflops,
memory_gib. A step that was not applied has `spike` (why) and `clips`. Validation: step, val_<name>. A picture: step,
sample (path beside the log).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dualforce_model.store import publish

NAME, EVENTS = "log.jsonl", "tensorboard"
TIMING = ("seconds", "data_seconds", "tokens_per_s", "tflops", "memory_gib")  # all that differs between equal runs
# where a number stands in TensorBoard; first match wins
PLACES = (("val_", "validation"), ("loss", "loss"), ("norm_", "gradient norm"), ("deciles_", "loss by sigma"))


class Log:
    """Appends to `folder`/log.jsonl; lines beyond `step` (and a half-written last one) are dropped first."""

    def __init__(self, folder: Path, step: int, say: Callable[[str], None] = print):
        self.path = folder / NAME
        kept = [line for line in read(self.path) if line["step"] <= step]
        with publish(self.path) as temporary:
            temporary.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)
        self._events = _events(folder / EVENTS, step, say)

    def add(self, **row: Any) -> None:
        """One row; numbers that are none (NaN) become null."""
        self._file.write(_line(row))
        self._file.flush()
        if self._events is not None:
            for name, value in _scalars(row):
                self._events.add_scalar(name, value, row["step"])

    def picture(self, step: int, path: Path) -> None:
        """A sample picture (RGB) that lies beside the log."""
        self.add(step=step, sample=str(path.relative_to(self.path.parent)))
        if self._events is not None:
            import numpy as np
            from PIL import Image

            with Image.open(path) as image:
                self._events.add_image("samples", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def sync(self) -> None:
        """Onto the disk: a checkpoint must not be newer than its log."""
        os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a killed process left unfinished is not one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """TensorBoard's names and values of a row's numbers."""
    for name, value in row.items():
        start, room = next(((s, r) for s, r in PLACES if name.startswith(s)), ("", "run"))
        short = name if start == "loss" else name.removeprefix(start)
        if isinstance(value, list) and start == "deciles_":
            parts = [(f"{short} {n / 10:.1f}-{(n + 1) / 10:.1f}", part) for n, part in enumerate(value)]
        else:
            parts = [(short, value)] if name != "step" else []
        for label, number in parts:
            if isinstance(number, int | float) and math.isfinite(number):
                yield f"{room}/{label}", float(number)


def _events(folder: Path, step: int, say: Callable[[str], None]) -> Any:
    """A writer of event files that hides what an interrupted run wrote beyond `step`; None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("tensorboard is not installed: no event files, the numbers are in log.jsonl all the same")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
