"""The sources that lists name: one per clip, a piece of a fetched video that is read where it lies."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from dualforce_model import media
from dualforce_model.download import deny
from dualforce_model.download.cut import cut_of
from dualforce_model.download.listed import ListedClip, ListedVideo
from dualforce_model.download.lists import read_lists
from dualforce_model.download.terms import TERMS
from dualforce_model.errors import BadInput
from dualforce_model.store import digest_bytes, identity
from tasks.run import Run
from tasks.stage import Item, Row, row_facts, upstream

VERSION = 1


def items(run: Run) -> list[Item]:
    """One item per listed clip whose video came. The list is read anew, so corrected times need no second fetch."""
    config, denied = run.config.download, deny.read(run.dir)
    here = {row.source: row for row in upstream(run, "download", "facts").itertuples(index=False)}
    found = []
    for manifest in read_lists(config):
        for video in manifest.videos:
            if row := here.get(video.source):
                fetched = row_facts(row)
                found += [
                    _item(run, video, clip, fetched["sha256"], row.artifact)
                    for clip in video.clips
                    if not deny.denies(denied, name_of(video, clip))
                ]
    return found


def name_of(video: ListedVideo, clip: ListedClip) -> str:
    """The clip's name in the ledger."""
    return f"{video.source}/{clip.name}"


def _item(run: Run, video: ListedVideo, clip: ListedClip, content: str, artifact: str) -> Item:
    framing = run.config.download.framing
    mine = identity(
        stage="cut",
        version=VERSION,
        name=name_of(video, clip),
        clip=dataclasses.asdict(clip),
        content=content,
        framing=framing,
    )
    payload = {"path": artifact, "content": content, "clip": clip, "video": video, "framing": framing}
    return Item(mine, "", name_of(video, clip), payload=payload)


def work(item: Item, run_dir: Path) -> list[Row]:
    """Find one listed clip in its video."""
    clip: ListedClip = item.payload["clip"]
    video: ListedVideo = item.payload["video"]
    slug = re.sub(r"[^a-z0-9]+", "-", clip.name.lower()).strip("-")[:40].strip("-") or "clip"
    content = item.payload["content"]
    digest = digest_bytes(f"{item.source}\n{content}".encode())
    source_id = f"{slug}-{digest[:8]}"
    facts: dict[str, Any] = {
        "content": content,
        "path": item.payload["path"],
        "listed": {
            "dataset": video.dataset,
            "group": video.group,
            "video": video.key,
            "person": f"{video.dataset}/{clip.person}",
            "licence": TERMS[video.dataset].licence,
        },
    }
    try:
        info = media.probe(run_dir / item.payload["path"])
        cut = cut_of(clip, info, item.payload["framing"])
    except BadInput as error:
        return [Row("failed", error.reason, str(error), source_id=source_id, facts=facts)]
    return [Row(source_id=source_id, facts=facts | {"probe": dataclasses.asdict(info), "cut": dataclasses.asdict(cut)})]
