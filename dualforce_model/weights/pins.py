"""What is known of a set's files beyond what their publisher states: what they were when they were first found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dualforce_model.store import digest_file, write_json
from dualforce_model.weights.errors import WeightsError
from dualforce_model.weights.registry import Weights


@dataclass
class Pins:
    """files: path -> size, sha256, changed (nanoseconds). archives: address -> sha256. commit: of the Hub."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    archives: dict[str, str] = field(default_factory=dict)
    commit: str | None = None


def read(path: Path) -> Pins:
    """Pins from a file, none where there is none. Raises WeightsError."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return Pins(**stored) if "files" in stored else Pins(files=stored)  # at first there were only files
    except FileNotFoundError:
        return Pins()
    except (ValueError, TypeError) as error:
        name = path.name.removesuffix(".pins.json")
        raise WeightsError(
            f"{path} is damaged ({error}); delete it and run `dualforce weights verify {name}`"
        ) from error


def write(path: Path, pins: Pins) -> None:
    write_json(path, asdict(pins))


def compare(weights: Weights, folder: Path, pins: Pins, thorough: bool) -> tuple[Pins, list[str]]:
    """A set's files in `folder`, all of which exist, as they are now; and what is wrong with them, in words.

    thorough: read every byte; otherwise only files whose size or time of change differ from when they were pinned.
    """
    now = {file.path: _pin(folder / file.path, pins.files.get(file.path), thorough) for file in weights.files}
    wrong = []
    for file in weights.files:
        expected = file.sha256 or pins.files.get(file.path, {}).get("sha256")
        if expected and now[file.path]["sha256"] != expected:
            known = "published" if file.sha256 else "pinned"
            wrong.append(f"{file.path} has sha256 {now[file.path]['sha256']}, {known} is {expected}")
    return replace(pins, files=now), wrong


def _pin(path: Path, before: dict[str, Any] | None, thorough: bool) -> dict[str, Any]:
    facts = path.stat()
    if not thorough and before and (before["size"], before["changed"]) == (facts.st_size, facts.st_mtime_ns):
        return before
    return {"size": facts.st_size, "changed": facts.st_mtime_ns, "sha256": digest_file(path)}
