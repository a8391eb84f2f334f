"""What the dashboard shows of work that takes long: a bar that moves, and of a training its numbers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from dualforce_model.train import log
from tasks.away import only_shown

EVERY_S = 2.0  # each showing is a call to the server
TENSORBOARD = "DUALFORCE_TENSORBOARD"  # where it is served, when not on this machine's port 6006


def key_of(stage: str) -> str:
    """Artifact keys know no underscore."""
    return stage.replace("_", "-")


class Bar:
    """Progress of one shard, on the page of its task run; there once the work has taken a while."""

    def __init__(self, stage: str, number: int, run_dir: Path):
        self.stage, self.number, self.run_dir = stage, number, run_dir
        self._shown_at = time.monotonic()
        self._artifact: UUID | None = None

    def show(self, stage: str, number: int, done: int, total: int) -> None:
        """A listener of `tasks.watch`."""
        late = time.monotonic() - self._shown_at >= EVERY_S
        if (stage, number) != (self.stage, self.number) or not (late or (self._artifact and done == total)):
            return
        percent = 100 * done / max(1, total)
        self._shown_at = time.monotonic()
        with only_shown():
            if self._artifact is None:
                what = f"{self.stage} {self.number:04d} of {self.run_dir}"
                made = create_progress_artifact(percent, key=f"progress-{key_of(self.stage)}", description=what)
                self._artifact = cast("UUID", made)
            else:
                update_progress_artifact(self._artifact, percent)


class Training:
    """The numbers of a training as its log has them: where to look at all of them, and the last validation."""

    def __init__(self, stage: str, folder: Path):
        self.stage, self.folder = stage, folder
        self._read = 0  # bytes of the log
        self._shown_at = time.monotonic()
        self._last: dict[str, Any] = {}
        self._validation: dict[str, Any] = {}
        self._table: UUID | None = None
        address = os.environ.get(TENSORBOARD, "http://127.0.0.1:6006")
        text = (
            f"Curves: [TensorBoard]({address}), once it runs on that machine:\n\n"
            f"```\ntensorboard --logdir {folder.parent} --host 127.0.0.1\n```\n\n"
            f"Numbers: `{folder / log.NAME}`. Checkpoints: `{folder}`."
        )
        with only_shown():
            create_markdown_artifact(text, key=f"{key_of(stage)}-curves", description=f"Where to watch {folder.name}")

    def show(self, stage: str, number: int, done: int, total: int) -> None:
        """A listener of `tasks.watch`."""
        if stage == self.stage and time.monotonic() - self._shown_at >= EVERY_S:
            self.look()

    def look(self) -> None:
        """Read what the log says newly; a validation in it becomes the table."""
        self._shown_at = time.monotonic()
        validation = self._validation
        for row in self._rows():
            self._last |= row
            if any(name.startswith("val_") for name in row):
                validation = row
        if validation is not self._validation:
            self._validation = validation
            step = validation["step"]
            table = [
                {"what": name.removeprefix("val_"), "validation": value, "training": self._last.get(name[4:])}
                for name, value in validation.items()
                if name.startswith("val_")
            ]
            what = f"Validation at step {step} of {self.folder.name}"
            with only_shown():
                self._show_table(table, what)

    def _show_table(self, table: list[dict[str, Any]], what: str) -> None:
        if self._table is None:
            made = create_table_artifact(table, key=f"{key_of(self.stage)}-validation", description=what)
            self._table = cast("UUID", made)
            return
        with get_client(sync_client=True) as client:  # one table that changes, not one for each validation
            client.update_artifact(self._table, ArtifactUpdate(data=json.dumps(table), description=what))

    def _rows(self) -> list[dict[str, Any]]:
        path = self.folder / log.NAME
        if not path.exists():
            return []
        if path.stat().st_size < self._read:  # begun anew
            self._read = 0
        with open(path, "rb") as handle:
            handle.seek(self._read)
            lines = handle.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._read += sum(map(len, whole))
        return [json.loads(line) for line in whole]
