"""The expected-versus-obtained report of a run: counted from its lists and ledgers, left as download.json beside them."""

from __future__ import annotations

from typing import Any

from dualforce_model.download import deny
from dualforce_model.download.lists import read_lists
from dualforce_model.download.tally import Fate, table, tally
from dualforce_model.store import ledger, write_json
from tasks.run import Run
from tasks.stage import row_facts

__all__ = ["count", "table"]
NAME = "download.json"


def count(run: Run) -> list[dict[str, Any]]:
    """Count and publish; see `dualforce_model.download.tally`."""
    denied = deny.read(run.dir)
    videos = {row.source: row.reason for row in ledger.read(run.dir, "download").itertuples(index=False)}
    clips: dict[str, Fate] = {}
    for row in ledger.read(run.dir, "source").itertuples(index=False):
        facts = row_facts(row)
        if "listed" in facts:
            cut = facts.get("cut")
            clips[row.source] = (row.reason, cut["end_s"] - cut["start_s"] if cut else 0.0)
    manifests = read_lists(run.config.download)
    if denied:
        for manifest in manifests:
            for video in manifest.videos:
                for clip in video.clips:
                    if deny.denies(denied, f"{video.source}/{clip.name}"):
                        clips[f"{video.source}/{clip.name}"] = ("denied", 0.0)
    entries = tally(manifests, videos, clips)
    write_json(run.dir / NAME, {"entries": entries})
    return entries
