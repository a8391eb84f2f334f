"""For the documentation's build: `{{ settings NAME }}` and `{{ reasons }}` in a page become tables made from the code.

Keys, defaults and words come from the dataclasses beside the code, so that a page cannot say what is no longer so. A setting
that nobody explained is a warning, and warnings fail the build.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import typing
from collections.abc import Iterator
from typing import Any

from dualforce_model.quality import CHECKS
from tasks.config import RunConfig

log = logging.getLogger("mkdocs.hooks.settings")
WANTED = re.compile(r"^\{\{ settings (\w+) \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return WANTED.sub(lambda found: table(found[1]), markdown).replace("{{ reasons }}", reasons())


def reasons() -> str:
    """Markdown table of the quality filter's reasons, in the order in which they are given."""
    rows = [
        f"| `{check.reason}` | `{check.score}` | {f'`quality.{check.threshold}`' if check.threshold else '–'} |"
        for check in CHECKS
    ]
    return "\n".join(["| reason | score | threshold |", "|---|---|---|", *rows])


def table(section: str) -> str:
    """Markdown table of a section of the run's settings. Raises KeyError for a section that does not exist."""
    kind = typing.get_type_hints(RunConfig)[section]
    rows = [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in settings(kind, section)]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows])


def settings(kind: type, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Each setting of a dataclass, those of dataclasses inside it too: key, default, meaning."""
    hints, meanings = typing.get_type_hints(kind), {**_comments(kind), **_described(kind)}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key = f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], key)  # type: ignore[arg-type]
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        meaning = " ".join(meanings.get(field.name, "").split()).replace("|", "\\|")
        if typing.get_origin(hints[field.name]) is typing.Literal:
            choices = " or ".join(f"`{choice}`" for choice in typing.get_args(hints[field.name]))
            meaning = f"{choices}{': ' + meaning if meaning else ''}"
        if not meaning:
            log.warning("%s of %s.%s has no explanation beside the code", key, kind.__module__, kind.__qualname__)
        yield key, _shown(default), meaning


def _shown(default: Any) -> str:
    if default in (None, "", (), [], {}):
        return "–"
    text = ", ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    return f"`{text}`"


def _described(kind: type) -> dict[str, str]:
    """From the docstring's legend: `name   what it means` or `one, other  what they mean`, further lines indented."""
    found: dict[str, str] = {}
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    last: list[str] = []
    for line in (inspect.getdoc(kind) or "").splitlines():
        entry = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
        if entry and names.issuperset(entry[1].split(", ")):
            last = entry[1].split(", ")
            found |= dict.fromkeys(last, entry[2])
        elif last and re.match(r" {4,}\S", line):
            found |= {name: f"{found[name]} {line.strip()}" for name in last}
        else:
            last = []
    return found


def _comments(kind: type) -> dict[str, str]:
    """From the comment at the end of a setting's line, or alone on the lines above it; of base classes too."""
    found: dict[str, str] = {}
    above: list[str] = []
    whole = [part for part in reversed(kind.__mro__) if dataclasses.is_dataclass(part)]  # a section may be a variant
    for line in "\n".join(map(inspect.getsource, whole)).splitlines():
        code, _, comment = line.partition("  # ")
        name = re.match(r"    (\w+): ", code)
        if name:
            found[name[1]] = comment or " ".join(above)
        alone = re.match(r"    # (.*)", line)
        above = [*above, alone[1]] if alone else []
    return found
