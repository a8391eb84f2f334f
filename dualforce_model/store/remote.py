"""A run in shared storage: S3, or any other file system that fsspec knows. Run folders are working copies of it.

    <url>/files/<name in the run folder>.<sha256>     an artifact: put once, never changed
    <url>/ledger/<stage>/*.parquet                    the ledger, as in a run folder: the markers
    <url>/deny.txt, run.json                          what must not be used; the settings it was last used with

An artifact is there when a row of the ledger says so, and rows are put after the files they name. So a put that was cut
short, a file without a row, and two machines that put the same are all harmless; no rename is relied on. Whoever
fetches a file compares its bytes with the row's sha256.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dualforce_model.store import ledger
from dualforce_model.store.identity import digest_file
from dualforce_model.store.publish import publish, write_json

T = TypeVar("T")
AT_ONCE = 8  # transfers
OURS, TAKING = "store", "being put into the store"
COPY = "copy.json"  # beside a ledger in a working copy: of which store it is, and which of its files are here
AGAIN = "run again, and it will be made again"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class StoreError(Exception):
    """The store can't be used (no access, no answer, no backend, another run); the message says which and why."""


class NotInStore(Exception):
    """What a ledger row names is not there, or is not what it names. `reason`: store_missing or store_damaged."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[NotInStore], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # survives the way back from a worker process


class Stored(NamedTuple):
    """A file as a ledger row names it."""

    name: str  # relative to the run folder
    bytes: int
    sha256: str

    @property
    def key(self) -> str:
        return f"{self.name}.{self.sha256}"


def files_of(recorded: str) -> list[Stored]:
    """The `files` column of a ledger row. Raises StoreError for a name that leads out of the run folder."""
    files = [Stored(*file) for file in json.loads(recorded)]
    for name, _, _ in files:  # whoever can write to the store must not be able to write elsewhere on this machine
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise StoreError(
                f"a ledger row names the file {name!r}, which is not in the run folder; somebody changed it"
            )
    return files


@dataclass(frozen=True)
class Remote:
    """Shared storage below `url`. `options` are fsspec's (endpoint, keys); without them the environment decides.

    Every method raises StoreError when the store can't be used, and OSError when the disk here is full.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def put(self, run_dir: Path, files: Iterable[Stored]) -> None:
        """Put artifacts of a run folder; when it returns, all are there."""
        self._each(lambda file: self.write(f"files/{file.key}", run_dir / file.name), files)

    def fetch(self, run_dir: Path, files: Iterable[Stored]) -> None:
        """See to it that these lie in the run folder with exactly their bytes. Raises NotInStore.

        An object with other bytes is set aside under `damaged/`, so that the next run makes it again.
        """
        self._each(lambda file: self._fetch(run_dir / file.name, file), files)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of what there is of a folder of the run folder ("": of its top alone), by `Stored.key`."""
        found = self._list(f"files/{folder}".rstrip("/"), None if folder else 1)
        return {name.removeprefix("files/"): info["size"] for name, info in found.items()}

    def objects(self) -> list[str]:
        """The name of every artifact in the store, and of what was set aside as damaged."""
        return sorted({**self._list("files"), **self._list("damaged")})

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects for good, by their names in the store."""
        with self._open() as (fs, root):
            self._each(lambda name: fs.rm_file(f"{root}/{name}"), names)

    def pull(self, run_dir: Path, stages: Iterable[str]) -> None:
        """Make the ledgers of a working copy what the store's are. Raises StoreError when the folder has another run.

        A run folder from before there was a store is taken in whole.
        """
        own = [
            stage for stage in ledger.stages(run_dir) if self._origin(run_dir, stage) != OURS and _here(run_dir, stage)
        ]
        if any(self._origin(run_dir, stage) != TAKING and self._ledger(stage) for stage in own):
            raise StoreError(f"{run_dir} and {self.url} hold different runs; name an empty folder or an empty store")
        for stage in own:
            self._note(run_dir, stage, TAKING)
            recorded = ledger.read(run_dir, stage, ["files"])["files"]
            self.put(run_dir, [f for text in recorded for f in files_of(text) if (run_dir / f.name).is_file()])
            self.push(run_dir, stage)
        for stage in stages:
            self._pull(run_dir, stage)

    def _pull(self, run_dir: Path, stage: str) -> None:
        there, seen, here = self._ledger(stage), self._seen(run_dir, stage), _here(run_dir, stage)
        if not there and not here:
            return
        self.claim(run_dir, stage)  # before there is anything that could be taken for a run of its own
        old = [name for name, stamp in there.items() if seen.get(name) != [stamp, here.get(name)]]
        self._each(lambda name: self.read(name, run_dir / name), old)
        for name in here.keys() - there.keys():
            (run_dir / name).unlink(missing_ok=True)
        for recorded in ledger.read(run_dir, stage, ["files"])["files"] if old else ():
            files_of(recorded)
        self._note(run_dir, stage, OURS, there)

    def claim(self, run_dir: Path, stage: str) -> None:
        """Say that what will be written of a stage in this working copy is of this store."""
        if self._origin(run_dir, stage) != OURS:
            self._note(run_dir, stage, OURS)

    def push(self, run_dir: Path, stage: str) -> None:
        """Make the store's ledger of a stage what the working copy's is. Killed half-way, no row is lost; do it again."""
        there, seen, here = self._ledger(stage), self._seen(run_dir, stage), _here(run_dir, stage)
        new = [name for name, stamp in here.items() if name not in there or seen.get(name) != [there[name], stamp]]
        self._each(lambda name: self.write(name, run_dir / name), new)
        self.remove([name for name in there if name not in here])
        if there or here:
            self._note(run_dir, stage, OURS, self._ledger(stage))

    def write(self, name: str, path: Path) -> None:
        """Put one file under a name in the store: whole or not at all."""
        with self._open() as (fs, root):
            if isinstance(fs, LocalFileSystem):  # alone among them it shows files that are being written
                with publish(Path(root, name)) as temporary:
                    fs.put_file(str(path), str(temporary))
                return
            try:
                fs.put_file(str(path), f"{root}/{name}")
            except FileNotFoundError as error:
                if path.exists():  # no bucket of that name
                    raise StoreError(f"{self.url}: {error}") from error
                raise

    def read(self, name: str, path: Path) -> bool:
        """Publish one object of the store at `path`; False when there is none."""
        with self._open() as (fs, root):
            try:
                with publish(path) as temporary:
                    fs.get_file(f"{root}/{name}", str(temporary))
            except FileNotFoundError:
                return False
        return True

    def _fetch(self, path: Path, file: Stored) -> None:
        if path.is_file() and path.stat().st_size == file.bytes and digest_file(path) == file.sha256:
            return
        with self._open() as (fs, root):
            key = f"{root}/files/{file.key}"
            try:
                with publish(path) as temporary:
                    fs.get_file(key, str(temporary))
                    if digest_file(temporary) == file.sha256:
                        return
                    self.write(f"damaged/{file.key}", temporary)
                    fs.rm_file(key)
                    raise NotInStore(
                        "store_damaged", f"{file.name} in {self.url} has other bytes than were put; {AGAIN}"
                    )
            except FileNotFoundError:
                raise NotInStore("store_missing", f"{file.name} is not in {self.url}; {AGAIN}") from None

    def _ledger(self, stage: str) -> dict[str, str]:
        """Every file of a stage's ledger in the store, with something that changes when it does."""
        folder = f"ledger/{stage}"
        found = {
            name: info
            for name, info in self._list(folder).items()
            if name.endswith(".parquet") and str(PurePosixPath(name).parent) == folder
        }
        return {n: str(i.get("ETag") or (i["size"], str(i.get("mtime") or i.get("created")))) for n, i in found.items()}

    def _noted(self, run_dir: Path, stage: str) -> dict[str, Any]:
        try:
            noted = json.loads((ledger.folder(run_dir, stage) / COPY).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return dict(noted) if noted["url"] == self.url else {}

    def _origin(self, run_dir: Path, stage: str) -> str:
        """Whose the ledger in the folder is: OURS, TAKING (into the store, killed in the middle of it), or another's."""
        return str(self._noted(run_dir, stage).get("origin", ""))

    def _seen(self, run_dir: Path, stage: str) -> dict[str, Any]:
        """By name the stamps of ledger files, there and here, when they were last known to be equal."""
        return dict(self._noted(run_dir, stage).get("files", {}))

    def _note(self, run_dir: Path, stage: str, origin: str, there: Mapping[str, str] = MappingProxyType({})) -> None:
        here = _here(run_dir, stage)
        equal = {name: [stamp, here[name]] for name, stamp in there.items() if name in here}
        write_json(ledger.folder(run_dir, stage) / COPY, {"url": self.url, "origin": origin, "files": equal})

    def _list(self, folder: str, depth: int | None = None) -> dict[str, dict[str, Any]]:
        with self._open() as (fs, root):
            start = f"{root}/{folder}"
            try:
                found = fs.find(start, maxdepth=depth, detail=True)
            except FileNotFoundError:
                return {}
            return {path[len(root) + 1 :]: info for path, info in found.items()}

    def _each(self, function: Callable[[T], object], what: Iterable[T]) -> None:
        what = list(what)
        if len(what) < 2:
            for one in what:
                function(one)
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(what))) as threads:
            for _ in threads.map(function, what):
                pass

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Any, str]]:
        """The file system and the root in it; what goes wrong with either is a StoreError."""
        try:
            # the listings of another moment are of no use where other machines write
            yield fsspec.url_to_fs(self.url, **{"use_listings_cache": False, **self.options})
        except (FileNotFoundError, StoreError, NotInStore):
            raise
        except ImportError as error:
            raise StoreError(f"{self.url}: {error}; for S3: pip install -c constraints.txt -e '.[s3]'") from error
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            raise StoreError(f"{self.url}: {type(error).__name__}: {error}") from error


def _here(run_dir: Path, stage: str) -> dict[str, list[int]]:
    """The same of a working copy."""
    stats = {path.name: path.stat() for path in ledger.folder(run_dir, stage).glob("[!.]*.parquet")}
    return {f"ledger/{stage}/{name}": [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
