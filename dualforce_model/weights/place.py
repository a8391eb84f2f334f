"""Where weights lie on this machine, and what identifies them.

A set lies in `<root>/<name>/`; root is `DUALFORCE_WEIGHTS`, or `~/.cache/dualforce/weights`. That folder may be a link
to one that a person named (`dualforce weights fetch NAME --folder DIR`). What was first found or fetched is pinned in
`<root>/<name>.pins.json`: size and sha256 of each file, and the size and time of change at which it was read, so that a
digest is computed again only when a file was touched.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from dualforce_model.store import digest_file, identity, write_json
from dualforce_model.weights.errors import MissingWeightsError, WeightsError
from dualforce_model.weights.registry import Weights, named

ROOT_VARIABLE = "DUALFORCE_WEIGHTS"

Pins = dict[str, dict[str, Any]]  # path -> size, sha256, changed (nanoseconds)


def root() -> Path:
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "dualforce" / "weights"


def place_of(name: str) -> Path:
    """The folder of a set, whether it is there or not."""
    return root() / named(name).name


def missing(name: str) -> list[str]:
    """Files of a set that are not there."""
    folder = place_of(name)
    return [file.path for file in named(name).files if not (folder / file.path).is_file()]


def locate(name: str) -> Path:
    """The folder of a set. Raises MissingWeightsError, which names the command that gets it."""
    absent = missing(name)
    if absent:
        raise MissingWeightsError(
            f"the weights {name!r} are not in {place_of(name)} ({', '.join(absent[:3])} missing): run `dualforce"
            f" weights fetch {name}`, or `dualforce weights fetch {name} --folder DIR` if DIR holds them already"
        )
    return place_of(name)


def read_pins(name: str) -> Pins:
    path = root() / f"{name}.pins.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(
            f"{path} is damaged ({error}); delete it and run `dualforce weights verify {name}`"
        ) from error


def check(name: str, thorough: bool) -> Pins:
    """Compare a set with what is known of it, pin what is not; returns its pins.

    thorough: read every byte; otherwise only files whose size or time of change differ from when they were pinned.
    Raises MissingWeightsError, WeightsError for a file that is not the known or pinned one.
    """
    folder, weights, pins = locate(name), named(name), read_pins(name)
    now = {file.path: _pin(folder / file.path, pins.get(file.path), thorough) for file in weights.files}
    wrong = []
    for file in weights.files:
        pin, before = now[file.path], pins.get(file.path, {})
        expected = file.sha256 or before.get("sha256")
        if expected and pin["sha256"] != expected:
            known = "published" if file.sha256 else "pinned"
            wrong.append(f"{file.path} has sha256 {pin['sha256']}, {known} is {expected}")
    if wrong:
        raise WeightsError(
            f"the weights {name!r} in {folder} are not the right ones: {'; '.join(wrong)}. Fetch them"
            f" again with `dualforce weights fetch {name} --again`; if the change is meant, delete"
            f" {root() / f'{name}.pins.json'}"
        )
    if now != pins:
        with suppress(PermissionError):  # a shared folder that only others may write to: digests are computed each time
            write_json(root() / f"{name}.pins.json", now)
    return now


def digest(name: str) -> str:
    """What identifies a set in the identity of artifacts: a hash of its files' paths and contents.

    Raises WeightsError.
    """
    return identity(weights=name, files={path: pin["sha256"] for path, pin in check(name, thorough=False).items()})


def _pin(path: Path, before: dict[str, Any] | None, thorough: bool) -> dict[str, Any]:
    facts = path.stat()
    if not thorough and before and (before["size"], before["changed"]) == (facts.st_size, facts.st_mtime_ns):
        return before
    return {"size": facts.st_size, "changed": facts.st_mtime_ns, "sha256": digest_file(path)}


def use_folder(weights: Weights, folder: Path) -> Path:
    """Take `folder`, which holds the set's files already, as its place. Raises WeightsError naming what it lacks."""
    absent = [file.path for file in weights.files if not (folder / file.path).is_file()]
    if absent:
        raise WeightsError(f"{folder} lacks {', '.join(absent)}, which the weights {weights.name!r} consist of")
    place = place_of(weights.name)
    if place.exists() and not place.is_symlink():
        raise WeightsError(f"{place} exists; move it away before another folder is named in its stead")
    place.parent.mkdir(parents=True, exist_ok=True)
    link = place.with_name(f".{place.name}-{os.getpid()}")
    link.symlink_to(folder.resolve(), target_is_directory=True)
    link.replace(place)
    check(weights.name, thorough=True)
    return place
