"""Where weights lie on this machine, and what identifies them.

A set lies in `<root>/<name>/`; root is `DUALFORCE_WEIGHTS`, or `~/.cache/dualforce/weights`. That folder may be a link
to one that a person named (`dualforce weights fetch NAME --folder DIR`). What was first found or fetched is pinned in
`<root>/<name>.pins.json`: size and sha256 of each file, and the size and time of change at which it was read, so that a
digest is computed again only when a file was touched; sha256 of each archive; the commit of a set on the Hub.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dualforce_model.store import identity
from dualforce_model.weights import pins as pinned
from dualforce_model.weights.errors import MissingWeightsError, WeightsError
from dualforce_model.weights.pins import Pins
from dualforce_model.weights.registry import Weights, named

ROOT_VARIABLE = "DUALFORCE_WEIGHTS"


def root() -> Path:
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "dualforce" / "weights"


def place_of(name: str) -> Path:
    """The folder of a set, whether it is there or not."""
    return root() / named(name).name


def pins_of(name: str) -> Path:
    """The file of a set's pins, whether it is there or not."""
    return root() / f"{named(name).name}.pins.json"


def begun(name: str) -> bool:
    """Is anything of the set here: its folder (a broken link, even) or its pins?"""
    return place_of(name).exists() or place_of(name).is_symlink() or pins_of(name).exists()


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
    return pinned.read(pins_of(name))


def write_pins(name: str, pins: Pins) -> None:
    pinned.write(pins_of(name), pins)


def check(name: str, thorough: bool, pins: Pins | None = None) -> Pins:
    """Compare a set with what is known of it, pin what is not; returns its pins.

    thorough: read every byte; otherwise only files whose size or time of change differ from when they were pinned.
    pins: instead of those on the disk, which they replace. Raises MissingWeightsError, WeightsError for a file that is
    not the known or pinned one.
    """
    folder, stored = locate(name), pins is None
    pins = read_pins(name) if pins is None else pins
    now, wrong = pinned.compare(named(name), folder, pins, thorough)
    if wrong:
        raise WeightsError(
            f"the weights {name!r} in {folder} are not the right ones: {'; '.join(wrong)}. Fetch them"
            f" again with `dualforce weights fetch {name} --again`; if the change is meant, delete {pins_of(name)}"
        )
    if now != pins or not stored:
        with suppress(PermissionError):  # a shared folder that only others may write to: digests are computed each time
            write_pins(name, now)
    return now


def digest(name: str) -> str:
    """What identifies a set in the identity of artifacts: a hash of its files' paths and contents.

    Raises WeightsError.
    """
    pins = check(name, thorough=False)
    return identity(weights=name, files={path: pin["sha256"] for path, pin in pins.files.items()})


def use_folder(weights: Weights, folder: Path) -> Path:
    """Take `folder`, which holds the set's files already, as its place. Raises WeightsError naming what is wrong there."""
    absent = [file.path for file in weights.files if not (folder / file.path).is_file()]
    if absent:
        raise WeightsError(f"{folder} lacks {', '.join(absent)}, which the weights {weights.name!r} consist of")
    place = place_of(weights.name)
    if place.exists() and not place.is_symlink():
        raise WeightsError(f"{place} exists; move it away before another folder is named in its stead")
    now, wrong = pinned.compare(weights, folder, read_pins(weights.name), thorough=True)
    if wrong:
        raise WeightsError(
            f"{folder} does not hold the weights {weights.name!r}: {'; '.join(wrong)}. Nothing was changed; name another"
            f" folder, or, if the change is meant, delete {pins_of(weights.name)} first"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    link = place.with_name(f".{place.name}-{os.getpid()}")
    link.symlink_to(folder.resolve(), target_is_directory=True)
    link.replace(place)
    write_pins(weights.name, now)
    return place
