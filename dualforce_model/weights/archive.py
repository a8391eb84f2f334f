"""Files that are published inside of a zip."""

from __future__ import annotations

import fnmatch
import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from dualforce_model.store import publish
from dualforce_model.weights.download import Patience, download
from dualforce_model.weights.errors import WeightsError
from dualforce_model.weights.pins import Pins
from dualforce_model.weights.registry import File

# a RuntimeError: an unknown compression, or a member that asks for a password
DAMAGED = (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)


def unpack(
    url: str, files: list[File], folder: Path, pins: Pins, patience: Patience, progress: Callable[[int], None]
) -> None:
    """Download the archive at `url` into `folder`, take `files` out of it, delete it, note its sha256 in `pins`.

    Raises WeightsError.
    """
    archive = folder / Path(url).name
    sha256 = download(url, archive, None, pins.archives.get(url), patience, progress)
    try:
        with zipfile.ZipFile(archive) as packed:
            for file in files:
                _take(url, packed, file, folder)
    except DAMAGED as error:
        raise WeightsError(f"{url} is no whole zip file ({error}); it was deleted, fetch it again") from error
    finally:
        archive.unlink()
    pins.archives[url] = sha256


def _take(url: str, packed: zipfile.ZipFile, file: File, folder: Path) -> None:
    names = [name for name in packed.namelist() if fnmatch.fnmatch(name, str(file.member))]
    if len(names) != 1:
        raise WeightsError(f"{url} holds {len(names)} files like {file.member}, one was expected; it was deleted")
    with packed.open(names[0]) as source, publish(folder / file.path) as temporary, open(temporary, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
