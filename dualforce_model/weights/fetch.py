"""Getting a set of weights: its files in parallel, each resumed, verified and published whole."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dualforce_model.weights.alone import alone
from dualforce_model.weights.archive import unpack
from dualforce_model.weights.download import DEFAULT, Patience, download
from dualforce_model.weights.errors import WeightsError, writing
from dualforce_model.weights.hub import commit_of, on_the_hub
from dualforce_model.weights.pins import Pins
from dualforce_model.weights.place import check, missing, place_of, read_pins, root, write_pins
from dualforce_model.weights.registry import HUB, File, Weights

PARALLEL = 4


def fetch(
    weights: Weights,
    again: bool = False,
    patience: Patience = DEFAULT,
    progress: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Download what is missing of a set (`again`: all of it), verify and pin it; returns its folder.

    `say` hears when another process fetches the same set, which is waited for. Raises WeightsError.
    """
    folder = place_of(weights.name)
    if not again and not missing(weights.name):
        check(weights.name, thorough=True)
        return folder
    if folder.is_symlink():
        raise WeightsError(
            f"{folder} is a link to a folder of yours; remove the link to fetch {weights.name!r} instead"
        )
    if weights.by_hand:
        raise WeightsError(
            f"{weights.name!r} can't be fetched by a program ({weights.restriction}): {weights.by_hand},"
            f" put it into {folder}"
        )
    with writing(folder), alone(root() / f".{weights.name}.lock", say):
        absent = missing(weights.name)
        wanted = [file for file in weights.files if again or file.path in absent]
        pins = Pins() if again else read_pins(weights.name)  # the old ones stay on the disk until all is there
        _get(weights, wanted, pins, again, patience, progress)
        check(weights.name, thorough=True, pins=pins)
    return folder


def _get(
    weights: Weights,
    wanted: list[File],
    pins: Pins,
    again: bool,
    patience: Patience,
    progress: Callable[[int], None],
) -> None:
    """Download `wanted`; adds the commit and the archives' sha256 to `pins`."""
    folder = place_of(weights.name)
    plain = [file for file in wanted if file.member is None]
    packed: dict[str, list[File]] = {}
    for file in wanted:
        if file.member is not None:
            packed.setdefault(str(file.url), []).append(file)
    if plain and weights.source.startswith(HUB) and pins.commit is None:
        pins.commit = commit_of(weights, plain[0])  # all files by it: the branch may move on while they are fetched
        if not again:
            write_pins(weights.name, pins)
    with ThreadPoolExecutor(PARALLEL) as pool:
        jobs = [pool.submit(_plain, weights, file, folder, pins, patience, progress) for file in plain]
        jobs += [pool.submit(unpack, url, files, folder, pins, patience, progress) for url, files in packed.items()]
        errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        raise error


def _plain(
    weights: Weights,
    file: File,
    folder: Path,
    pins: Pins,
    patience: Patience,
    progress: Callable[[int], None],
) -> None:
    size, sha256 = file.size, file.sha256 or pins.files.get(file.path, {}).get("sha256")
    if file.url is not None:
        url = file.url
    elif pins.commit is not None:
        url, size, published = on_the_hub(weights, file, pins.commit)
        sha256 = sha256 or published
    else:
        url = f"{weights.source}/{file.path}"
    download(url, folder / file.path, size, sha256, patience, progress)
