"""The real clips, cropped once for all tests that look at the result."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dualforce_model.errors import Verdict
from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.media import Clip

IDENTITY = "0" * 32


@dataclass(frozen=True)
class Outcome:
    """What became of one source: its clips, or the reason why there are none."""

    clips: tuple[Clip, ...] = ()
    reason: str = ""


def crop(path: Path, out: Path, config: FaceCropConfig | None = None, name: str = "") -> Outcome:
    try:
        sidecars = crop_source(path, name or path.stem, IDENTITY, out, config or FaceCropConfig())
    except Verdict as verdict:
        return Outcome(reason=verdict.reason)
    return Outcome(tuple(Clip(out, s["clip_id"]) for s in sidecars))


@functools.cache
def crop_all(folder: Path) -> dict[str, Outcome]:
    """File name without its technical part (`good_hdtf_may`) -> outcome."""
    out = Path(tempfile.mkdtemp(prefix="cropped-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    return {path.stem: crop(path, out) for path in sorted(folder.glob("*.mp4"))}
