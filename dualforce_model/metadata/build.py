"""Three files that make a dataset of a run folder: metadata.parquet, stats.json and, last, metadata.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualforce_model import timeline
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES
from dualforce_model.metadata import split
from dualforce_model.metadata.check import Header, picture_size, read_header, read_text
from dualforce_model.metadata.config import MetadataConfig
from dualforce_model.metadata.statistics import Totals
from dualforce_model.store import identity, publish, write_json

FORMAT = 1  # of the three files
SPLITS = ("train", "val", "test")

_COLUMNS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("source", pa.string()),  # path relative to the input folder
        ("licence", pa.string()),  # "" when nobody said
        ("group", pa.string()),  # clips of one group show one person
        ("split", pa.string()),  # train | val | test
        ("frames", pa.int64()),  # raw frames
        ("latents", pa.int64()),
        ("video", pa.string()),  # this and the features: paths relative to the run folder
        *((name, pa.string()) for name in FEATURES),
    ]
)


def build(
    run_dir: Path,
    clips: Iterable[Mapping[str, Any]],
    features: Mapping[str, Path],
    config: MetadataConfig,
    face_crop: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Validate every clip and publish the dataset; returns one row per clip, by clip_id, usable or not.

    A clip needs `clip_id`, `source_id` and `frames`; it may bring `source`, `licence`, `identity_group` and `text`, the
    file of its caption's embedding (relative to the run folder). Where any clip has one, the table has a column `text`
    (null for clips without) and the card says how text was made and how wide it is. `features` are the folders that hold
    `<clip_id>.safetensors`. Rows have clip_id, source_id, status (`accepted` or `failed`), reason, message, group and split
    ("" when failed). Clips that failed are in no file, so training can't meet them. Same input, same bytes. `face_crop`: how
    faces were found and cropped; the card keeps it, and generation crops its picture likewise.

    Raises BadInput: no_clips when none is usable, mixed_provenance, mixed_sizes.
    """
    rows: list[dict[str, Any]] = []
    totals = {side: Totals() for side in SPLITS}
    first: dict[str, tuple[str, Header]] = {}  # by feature, the clip that all others must be like
    for clip in sorted(clips, key=lambda clip: clip["clip_id"]):
        row = {"clip_id": clip["clip_id"], "source_id": clip["source_id"], "group": split.group_of(clip, config)}
        try:
            headers = _headers(features, clip)
            texts = {"text": read_text(run_dir / clip["text"])} if clip.get("text") else {}
        except BadInput as error:
            rows.append({**row, "split": "", "status": "failed", "reason": error.reason, "message": str(error)})
            continue
        _alike(first, clip["clip_id"], headers | texts)
        totals[split.side_of(row["group"], config)].add({name: header.moments for name, header in headers.items()})
        data = {name: header.data_sha256 for name, header in (headers | texts).items()}
        facts = {"status": "accepted", "reason": "", "message": "", "data": data}
        rows.append({**_facts(run_dir, clip, features), **row, **facts})
    usable = [row for row in rows if row["status"] == "accepted"]
    if not first:
        found = ", ".join(f"{reason} ({count})" for reason, count in Counter(r["reason"] for r in rows).most_common())
        raise BadInput("no_clips", f"none of {len(rows)} clips can be used{': ' + found if found else ''}")
    sides = split.assign({row["group"] for row in usable}, config)
    for row in usable:
        row["split"] = sides[row["group"]]
        if row["split"] != split.side_of(row["group"], config):  # so few people that one was called in to be trained on
            clip = {"clip_id": row["clip_id"], "frames": row["frames"]}
            totals["train"].add({name: header.moments for name, header in _headers(features, clip).items()})
    card = _card(usable, {name: header for name, (_, header) in first.items()})
    if face_crop is not None:
        card["face_crop"] = dict(face_crop)
    card["refused"] = dict(sorted(Counter(row["reason"] for row in rows if row["status"] == "failed").items()))

    columns = _COLUMNS.append(pa.field("text", pa.string())) if "text" in first else _COLUMNS
    with publish(run_dir / "metadata.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(usable, schema=columns), temporary)
    write_json(run_dir / "stats.json", totals["train"].stats())
    write_json(run_dir / "metadata.json", card)
    kept = ("clip_id", "source_id", "status", "reason", "message", "group", "split")
    return [{key: row[key] for key in kept} for row in rows]


def _headers(features: Mapping[str, Path], clip: Mapping[str, Any]) -> dict[str, Header]:
    """Headers of a clip's five features. Raises BadInput when one of them is of no use."""
    headers = {}
    for name, feature in FEATURES.items():
        path = features[name] / f"{clip['clip_id']}.safetensors"
        headers[name] = read_header(path, feature, clip["clip_id"], int(clip["frames"]))
    return headers


def _facts(run_dir: Path, clip: Mapping[str, Any], features: Mapping[str, Path]) -> dict[str, Any]:
    paths = {
        name: (features[name] / f"{clip['clip_id']}.safetensors").relative_to(run_dir).as_posix() for name in FEATURES
    }
    return {
        "source": clip.get("source", ""),
        "licence": clip.get("licence", ""),
        "frames": int(clip["frames"]),
        "latents": timeline.latent_count(int(clip["frames"])),
        "video": f"clips/{clip['clip_id']}.mp4",
        **paths,
        "text": clip.get("text"),
    }


def _card(usable: list[dict[str, Any]], first: Mapping[str, Header]) -> dict[str, Any]:
    """metadata.json: what the dataset is, as `first`, a header of each feature, say for all clips."""
    members = [[row["clip_id"], row["split"], row["data"]] for row in usable]
    made_by = {name: dict(header.made_by) for name, header in first.items()}
    sides = {side: [row for row in usable if row["split"] == side] for side in SPLITS}
    channels, _, cells, _ = first["video_latents"].shapes["latents"]
    return {
        "format": FORMAT,
        "identity": identity(format=FORMAT, features=made_by, members=members),
        "size": cells * timeline.SPATIAL,
        "features": made_by,
        "fps": timeline.FPS,
        "audio_rate": timeline.AUDIO_RATE,
        "latent_channels": channels,
        "latent_size": cells,
        "struct_dim": first["struct_latents"].shapes["struct"][1],
        "flame_dim": first["flame"].shapes["flame"][1],
        "audio_dim": first["audio_features"].shapes["audio"][1],
        "reference_count": first["reference"].shapes["latents"][0],
        **({"text_dim": first["text"].shapes["text"][1]} if "text" in first else {}),
        "counts": {
            side: {
                "clips": len(rows),
                "frames": sum(row["frames"] for row in rows),
                "groups": len({row["group"] for row in rows}),
            }
            for side, rows in sides.items()
        },
        "statistics_of": "train",
    }


def _alike(first: dict[str, tuple[str, Header]], other: str, headers: Mapping[str, Header]) -> None:
    """Compare a clip with those that were `first` to have each feature; what nobody had before, it is the first to have.

    Raises BadInput when they don't belong in one dataset.
    """
    for feature, header in headers.items():
        one, its = first.setdefault(feature, (other, header))
        for key, value in its.made_by.items():
            its_value, others_value = json.dumps(value, sort_keys=True), json.dumps(header.made_by[key], sort_keys=True)
            if its_value != others_value:
                raise BadInput(
                    "mixed_provenance",
                    f"{feature} was made in two ways that cannot be mixed: {key} is {its_value} for clip {one},"
                    f" but {others_value} for clip {other}; run the stage {feature} for all clips",
                )
    one, _ = first["video_latents"]
    pictures = ("video_latents", "reference")
    sizes = [picture_size(first[name][1].shapes) for name in pictures]
    sizes += [picture_size(headers[name].shapes) for name in pictures]
    if len(set(sizes)) > 1:
        raise BadInput(
            "mixed_sizes",
            f"latents of clip {one} show {sizes[0]} px (its references {sizes[1]}), those of clip {other} {sizes[2]} px"
            f" ({sizes[3]}); crop all sources to one size and run the features again",
        )
