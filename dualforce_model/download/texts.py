"""The text files of a list, from a folder, one file, or an archive. Archives are read where they lie; nothing is unpacked."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from dualforce_model.errors import BadInput

MOST_BYTES = 1 << 30  # of one file: CelebV-HQ's list has 60 MB; more is no list
HEAD_BYTES = 4096  # enough for the lines before VFHQ's landmarks


def read_text(path: Path) -> str:
    """A whole text file, a byte-order mark taken off. Raises BadInput no_list, list_unreadable."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInput("list_unreadable", f"{path} has more than {MOST_BYTES >> 20} MiB; it is no list")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInput("no_list", f"the list {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise BadInput("list_unreadable", f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise BadInput("list_unreadable", f"cannot read the list {path}: {error.strerror}") from error


def heads(path: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """(file name, first 4 KiB) of every file that ends in `suffix` in a folder tree, .zip or .tar*, in name order.

    Only the last part of a member's name is used, so an archive's `../../x` leads nowhere; links in it are not followed.
    """
    try:
        if path.is_dir():
            for file in sorted(path.rglob(f"*{suffix}")):
                with open(file, "rb") as plain:
                    yield file.name, _text(plain.read(HEAD_BYTES))
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in sorted(n for n in archive.namelist() if n.endswith(suffix)):
                    with archive.open(name) as packed:
                        yield Path(name).name, _text(packed.read(HEAD_BYTES))
        elif path.is_file() and tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                for member in tar:  # a stream has no name order; the parser sorts
                    stream = tar.extractfile(member) if member.isfile() and member.name.endswith(suffix) else None
                    if stream is not None:
                        yield Path(member.name).name, _text(stream.read(HEAD_BYTES))
        else:
            raise BadInput("no_list", f"the list {path} is neither a folder nor a .zip or .tar archive")
    except (OSError, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
        raise BadInput("list_unreadable", f"cannot read the list {path}: {error}") from error


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="replace")
