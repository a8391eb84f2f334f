"""`dualforce bench`: figures of this machine as JSON."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from flows.settings import prepare
from tasks.bench import measure


def data(input_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Time stages 2 to 5 with the default (512 px, embedded) configuration in a temporary run folder."""
    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as folder:
        return measure(prepare("local", f"{folder}/run", str(input_dir), overrides))
