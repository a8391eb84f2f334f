"""Ids that must not be used: a text file in the run folder, one a line, looked at by every stage and by training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dualforce_model.errors import BadInput
from dualforce_model.store import publish

NAME = "deny.txt"


def read(run_dir: Path) -> frozenset[str]:
    """The denied ids of a run folder; none when it has no such file. Raises BadInput when it can't be read."""
    return parse(run_dir / NAME) if (run_dir / NAME).exists() else frozenset()


def parse(path: Path) -> frozenset[str]:
    """The ids of any deny-list: one a line, `#` begins a remark. Raises BadInput no_deny_list."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        # going on without it would use what must not be used
        raise BadInput("no_deny_list", f"the deny-list {path} cannot be read: {error}") from error
    return frozenset(line.partition("#")[0].strip() for line in lines) - {""}


def add(run_dir: Path, ids: Iterable[str]) -> frozenset[str]:
    """Put ids on the run folder's list; returns those that were new. An id never leaves it but by a person's hand."""
    known = read(run_dir)
    new = frozenset(ids) - known
    if new:
        with publish(run_dir / NAME) as temporary:
            temporary.write_text("".join(f"{one}\n" for one in sorted(known | new)), encoding="utf-8")
    return new


def denies(denied: frozenset[str], source: str, *ids: str) -> bool:
    """Whether a source (its name in the ledger, and any further ids of it) is meant by the list.

    A name is meant by itself, by any of its parts (`hdtf/CPCoMyuBRM0/Radio1_0` by `CPCoMyuBRM0`), and by the part without
    its suffix (`people/may.mp4` by `may`).
    """
    if not denied:
        return False
    parts = source.split("/")
    names = {source, *parts, parts[-1].rpartition(".")[0] or source, *ids}
    return not denied.isdisjoint(names)
