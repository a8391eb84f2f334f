"""A run folder: its configuration, its lock, its layout. Truth lives here on disk; Prefect only triggers and shows."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dualforce_model import config as configs
from dualforce_model.download import deny
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES
from dualforce_model.store import write_json
from tasks.config import RunConfig

FORMAT = 1
MANIFEST = "run.json"


NO_WRITING = {  # what is wrong with all of the disk and not with one item -> what to do about it
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or raise the quota",
    errno.EFBIG: "raise the limit for the size of files",
    errno.EROFS: "mount it for writing",
}


class RunError(Exception):
    """A run can't start or go on; the message says what is wrong and what to do."""


def unwritable(run_dir: Path, error: OSError) -> RunError:
    """What to raise when nothing can be written into a run folder."""
    hint = f"; {NO_WRITING[error.errno]} and run again, nothing is lost" if error.errno in NO_WRITING else ""
    return RunError(f"cannot write to {run_dir}: {error.strerror}{hint}")


@dataclass(frozen=True)
class Run:
    """A run folder that is ready for work."""

    dir: Path
    config: RunConfig

    @property
    def clips(self) -> Path:
        return self.dir / "clips"

    @property
    def features(self) -> Path:
        return self.dir / "features"

    @property
    def checkpoints(self) -> Path:
        return self.dir / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.dir / "samples"


def create(run_dir: Path, config: RunConfig) -> Run:
    """Make the run folder, or take over an existing one with a new configuration. Raises RunError."""
    run_dir = run_dir.absolute()
    config = replace(config, download=config.download.absolute(), text=config.text.absolute())
    _usable(run_dir)
    if (run_dir / MANIFEST).exists():
        _manifest(run_dir)
    try:
        if config.download.deny is not None:  # before anything else is done with this configuration
            deny.add(run_dir, deny.parse(config.download.deny))
        write_json(run_dir / MANIFEST, {"format": FORMAT, "config": configs.to_dict(config)})
    except OSError as error:
        raise unwritable(run_dir, error) from error
    except BadInput as error:
        raise RunError(str(error)) from error
    return Run(run_dir, config)


def read_config(run_dir: Path, assignments: tuple[str, ...] = ()) -> RunConfig:
    """The configuration a run folder was last used with, with `a.b=c` overrides. Raises RunError and ConfigError."""
    values = configs.override(_manifest(run_dir.absolute())["config"], assignments, RunConfig)
    return configs.build(RunConfig, values)


def open_run(run_dir: Path) -> Run:
    """An existing run folder as it is. Raises RunError."""
    return Run(run_dir.absolute(), read_config(run_dir))


def _manifest(run_dir: Path) -> dict[str, Any]:
    path = run_dir / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format"]
    except FileNotFoundError:
        raise RunError(f"{run_dir} is no run folder: it has no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it or start a new run folder") from error
    if version > FORMAT:
        raise RunError(
            f"{run_dir} was written by a newer version (format {version}, this one knows {FORMAT}); update dualforce"
        )
    return manifest  # type: ignore[no-any-return]


_held: dict[Path, int] = {}  # lock files of this process, and how many blocks have taken each
LOCK = ".lock"  # whoever changes what several stages read; one per feature beside it


@contextmanager
def lock(run_dir: Path, stage: str = "") -> Iterator[None]:
    """Hold a run folder for this process; stages inside a pipeline may take it again. Raises RunError if another has it.

    Features only read what lies before them, so different ones run side by side, in several processes; the same one
    twice does not, nor anything beside a stage that others read from. A file lock ends with its process, however it
    ends, so nothing stale is ever left behind.
    """
    run_dir = run_dir.absolute()
    _usable(run_dir)
    whole = run_dir / LOCK
    if whole in _held or stage not in FEATURES:
        with _take(whole, run_dir):
            yield
    else:
        with _take(run_dir / f"{LOCK}-{stage}", run_dir), _take(whole, run_dir, shared=True):
            yield


@contextmanager
def _take(path: Path, run_dir: Path, shared: bool = False) -> Iterator[None]:
    if not shared and path in _held:
        _held[path] += 1
        try:
            yield
        finally:
            _held[path] -= 1
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(run_dir, error) from error
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode() or _holders(run_dir) or "another process"
            raise RunError(f"{run_dir} is in use by {holder}; wait for it to end, or name another --run-dir") from None
        os.ftruncate(handle, 0)
        if shared:  # several hold it; who they are stands in the files of their own
            yield
            return
        os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        _held[path] = 1
        try:
            yield
        finally:
            del _held[path]
    finally:
        os.close(handle)


def _holders(run_dir: Path) -> str:
    """Who holds features of the folder, as words."""
    found = []
    for feature in FEATURES:
        path = run_dir / f"{LOCK}-{feature}"
        if path.exists():
            with open(path, encoding="utf-8") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(f"{feature} ({handle.read()})")
    return ", ".join(found)


@contextmanager
def settings_of(run_dir: Path) -> Iterator[None]:
    """Read and change `run.json` in one go: features that start side by side wait here for each other, for an instant."""
    _usable(run_dir.absolute())
    with open(run_dir / f"{LOCK}-settings", "a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _usable(run_dir: Path) -> None:
    """Make the folder if it is not there. Raises RunError where something else lies."""
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(f"{run_dir} is a file; name a folder for the run")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        others = [path for path in run_dir.iterdir() if not path.name.startswith(LOCK)]
    except OSError as error:
        raise unwritable(run_dir, error) from error
    if others and not (run_dir / MANIFEST).exists():
        raise RunError(f"{run_dir} is not empty and not a run folder; choose another --run-dir")
