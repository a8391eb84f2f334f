"""What is said of clips in words: a CSV of captions, and what embeds them."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from dualforce_model.config import ConfigError
from dualforce_model.errors import BadInput
from dualforce_model.features.umt5 import Umt5Config

COLUMNS = ("clip_id", "source")  # by which of them a file names what its captions describe


@dataclass(frozen=True)
class TextConfig:
    """Where captions come from and what embeds them.

    backend    with `none` no clip has a text; `umt5` needs the weights `umt5_xxl`
    captions   CSV in UTF-8 with a header, `clip_id,caption` or `source,caption`; a source (its file's name below the
               input folder, its name in a list, or its id) lends its caption to all its clips
    """

    backend: Literal["none", "umt5"] = "none"
    captions: Path | None = None
    umt5: Umt5Config = field(default_factory=Umt5Config)

    def __post_init__(self) -> None:
        if self.backend != "none" and self.captions is None:
            raise ConfigError("backend embeds captions: name their file with captions")

    def absolute(self) -> TextConfig:
        """The same with a path that means the same file wherever a worker stands."""
        return replace(self, captions=self.captions and self.captions.absolute())


class Caption(NamedTuple):
    """A line of the file: its number, the clip or source that it names, what it says of it ("" for nothing)."""

    line: int
    name: str
    text: str


def read_captions(path: Path) -> tuple[str, list[Caption]]:
    """By which of COLUMNS a file names its clips, and its captions in order. Raises BadInput no_captions."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            header = rows.fieldnames or ()
            by = [name for name in COLUMNS if name in header]
            if "caption" not in header or len(by) != 1:
                raise BadInput(
                    "no_captions",
                    f"{path} begins with {','.join(header)!r}; its first line must be 'clip_id,caption' or 'source,caption'",
                )
            found = [Caption(rows.line_num, (row[by[0]] or "").strip(), (row["caption"] or "").strip()) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput("no_captions", f"the captions {path} cannot be read: {error}") from error
    return by[0], found
