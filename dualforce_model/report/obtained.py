"""The section about lists and downloads, from the counts that the download stage left in download.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dualforce_model.report import words


def sections(run_dir: Path) -> list[dict[str, Any]]:
    """Per dataset and group: name, counts in words, losses [(reason, in plain words, clips)]; empty without lists."""
    path = run_dir / "download.json"
    if not path.is_file():
        return []
    return [_section(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["entries"]]


def _section(entry: dict[str, Any]) -> dict[str, Any]:
    counts = (entry[name] for name in ("videos", "clips", "hours", "persons"))
    return {
        "name": words.visible(f"{entry['dataset']} {entry['group']}".strip()),
        "counts": [f"{count['obtained']:.4g} of {count['expected']:.4g}" for count in counts],
        "lost": [(reason, words.plain(reason), count) for reason, count in entry["clips"]["lost"].items()],
        "flaws": ", ".join(f"{reason} {count}" for reason, count in entry["list_problems"].items()),
        "terms": (f"{entry['dataset']} ({entry['licence']})", entry["terms"]),
    }
