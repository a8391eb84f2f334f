"""The training log: one JSON line per logged step. After a resume it reads as if there had been no interruption."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dualforce_model.store import publish

NAME = "log.jsonl"
TIMING = ("seconds", "data_seconds")  # the only fields that differ between equal runs


class Log:
    """Appends to `folder`/log.jsonl; lines beyond `step` (and a half-written last one) are dropped first."""

    def __init__(self, folder: Path, step: int):
        self.path = folder / NAME
        kept = [line for line in read(self.path) if line["step"] <= step]
        with publish(self.path) as temporary:
            temporary.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def add(self, **row: Any) -> None:
        self._file.write(_line(row))
        self._file.flush()

    def sync(self) -> None:
        """Onto the disk: a checkpoint must not be newer than its log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a killed process left unfinished is not one."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
