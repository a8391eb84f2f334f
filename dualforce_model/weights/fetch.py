"""Getting a set of weights: its files in parallel, each resumed, verified and published whole."""

from __future__ import annotations

import fnmatch
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dualforce_model.store import publish
from dualforce_model.weights.download import DEFAULT, Patience, download
from dualforce_model.weights.errors import WeightsError
from dualforce_model.weights.place import check, place_of, read_pins, root
from dualforce_model.weights.registry import HUB, File, Weights

PARALLEL = 4


def fetch(
    weights: Weights,
    again: bool = False,
    patience: Patience = DEFAULT,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Download what is missing of a set (`again`: all of it), verify and pin it; returns its folder.

    Raises WeightsError.
    """
    folder = place_of(weights.name)
    wanted = [file for file in weights.files if again or not (folder / file.path).is_file()]
    if wanted and folder.is_symlink():
        raise WeightsError(
            f"{folder} is a link to a folder of yours; remove the link to fetch {weights.name!r} instead"
        )
    if wanted and weights.by_hand:
        raise WeightsError(
            f"{weights.name!r} can't be fetched by a program ({weights.restriction}): {weights.by_hand},"
            f" put it into {folder}"
        )
    if again:
        (root() / f"{weights.name}.pins.json").unlink(missing_ok=True)
    pins = read_pins(weights.name)
    plain = [file for file in wanted if file.member is None]
    packed: dict[str, list[File]] = {}
    for file in wanted:
        if file.member is not None:
            packed.setdefault(str(file.url), []).append(file)
    with ThreadPoolExecutor(PARALLEL) as pool:
        jobs = [pool.submit(_plain, weights, file, folder, pins, patience, progress) for file in plain]
        jobs += [pool.submit(_packed, url, files, folder, patience, progress) for url, files in packed.items()]
        errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        raise error
    check(weights.name, thorough=True)
    return folder


def _plain(
    weights: Weights,
    file: File,
    folder: Path,
    pins: dict[str, dict],
    patience: Patience,
    progress: Callable[[int], None],
) -> None:
    size, sha256 = file.size, file.sha256 or pins.get(file.path, {}).get("sha256")
    if file.url is not None:
        url = file.url
    elif weights.source.startswith(HUB):
        url, size, published = _on_the_hub(weights, file)
        sha256 = sha256 or published
    else:
        url = f"{weights.source}/{file.path}"
    download(url, folder / file.path, size, sha256, patience, progress)


def _on_the_hub(weights: Weights, file: File) -> tuple[str, int | None, str | None]:
    """Address of a file on the Hugging Face Hub (or the mirror named by HF_ENDPOINT), its size, its sha256 if known."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(weights.source.removeprefix(HUB), file.path, revision=weights.revision)
    try:
        facts = get_hf_file_metadata(url, retry_on_errors=True)
    except (HfHubHTTPError, OSError) as error:
        raise WeightsError(f"{url}: {error}") from error
    etag = facts.etag or ""
    # the hub's tag of a large file is its sha256; that of a small one a git hash, which says nothing to us
    return url, facts.size, etag if len(etag) == 64 else None


def _packed(url: str, files: list[File], folder: Path, patience: Patience, progress: Callable[[int], None]) -> None:
    archive = folder / Path(url).name
    download(url, archive, None, None, patience, progress)
    try:
        with zipfile.ZipFile(archive) as packed:
            for file in files:
                names = [name for name in packed.namelist() if fnmatch.fnmatch(name, str(file.member))]
                if len(names) != 1:
                    raise WeightsError(f"{url} holds {len(names)} files like {file.member}, one was expected")
                with (
                    packed.open(names[0]) as source,
                    publish(folder / file.path) as temporary,
                    open(temporary, "wb") as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise WeightsError(f"{url} is no whole zip file ({error}); it was deleted, fetch it again") from error
    archive.unlink()
