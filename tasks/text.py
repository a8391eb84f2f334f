"""Stage `text`: the captions of accepted clips, embedded once each, however many clips they describe."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from dualforce_model import config as configs
from dualforce_model import weights
from dualforce_model.features import umt5
from dualforce_model.features.captions import Caption, read_captions
from dualforce_model.store import identity, ledger
from tasks.run import Run, RunError
from tasks.stage import Item, Row, Stage, upstream
from tasks.watch import tell

FOLDER = "features/text"
NAMED = 10  # lines that a message lists


def plan(run: Run) -> list[Item]:
    """One item: all captions. Raises RunError where none are configured, BadInput, MissingWeightsError, WeightsError."""
    config = run.config.text
    if config.backend == "none" or config.captions is None:
        raise RunError("text is not configured: --set text.backend=umt5 --set text.captions=FILE")
    accepted = upstream(run, "quality")
    by, captions = read_captions(config.captions)
    said: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        said[caption.name].append(caption.text)
    clips = []
    for row in accepted.itertuples(index=False):
        names = [row.clip_id] if by == "clip_id" else [row.source, row.source_id]
        if texts := sorted({text for name in names for text in said.get(name, ())}):
            key = {"clip_id": row.clip_id, "source_id": row.source_id, "source": row.source}
            clips.append({"key": key, "texts": texts})
    strange = _strange(run, by, captions)
    mine = identity(
        stage="text",
        version=umt5.VERSION,
        config=configs.to_dict(config.umt5),
        weights=weights.digest(umt5.WEIGHTS),
        clips=clips,
        strange=strange,
    )
    payload = {"clips": clips, "strange": strange, "config": config.umt5}
    return [Item(mine, "", "", payload=payload)]


def _strange(run: Run, by: str, captions: list[Caption]) -> list[int]:
    """The lines that name no clip or source of this run, be it accepted or not."""
    if by == "clip_id":
        known = set(ledger.read(run.dir, "face_crop", ["clip_id"])["clip_id"])
    else:
        rows = ledger.read(run.dir, "source", ["source", "source_id"])
        known = {*rows["source"], *rows["source_id"]}
    return [caption.line for caption in captions if caption.name not in known or not caption.name]


def work(item: Item, run_dir: Path, reuse: bool) -> list[Row]:
    """Embed the captions; a row per clip that has one, and one for all lines that name nothing.

    A caption that is of no use (caption_empty, caption_too_long, caption_twice) leaves its clip without a text, and in the
    dataset. Raises MissingWeightsError, WeightsError.
    """
    clips, strange = item.payload["clips"], item.payload["strange"]
    wanted = [clip["texts"][0] for clip in clips if len(clip["texts"]) == 1 and clip["texts"][0]]
    progress = partial(tell, "text", 0)
    made = umt5.embed(wanted, run_dir / FOLDER, item.payload["config"], reuse, progress)
    rows = [_row(clip["texts"], made, clip["key"]) for clip in clips]
    if strange:
        # by their numbers alone: a line may name somebody who was taken out of the run
        listed = ", ".join(map(str, strange[:NAMED])) + (", …" if len(strange) > NAMED else "")
        message = f"lines of the captions that name nothing in this run: {listed}"
        rows.append(Row("rejected", "caption_unknown", message, facts={"lines": len(strange)}))
    return rows


def _row(texts: list[str], made: umt5.Embedded, key: dict[str, Any]) -> Row:
    if len(texts) > 1:
        return Row("rejected", "caption_twice", f"the captions say {len(texts)} different things of it", **key)
    (text,) = texts
    if not text:
        return Row("rejected", "caption_empty", "its caption is empty", **key)
    if text in made.refused:
        return Row("rejected", made.refused[text].reason, str(made.refused[text]), **key)
    return Row(files=(f"{FOLDER}/{made.files[text].name}",), facts={"caption": text}, **key)


STAGE = Stage("text", FOLDER, plan, work, gives="dataset", takes_up=True, in_workers=False)
