"""A small real run folder: demo clips cropped, measured and encoded by the library, and the ledger of that."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dualforce_model import config as configs
from dualforce_model import errors, faces, media, quality
from dualforce_model.demo.clips import SCENES, render_scene
from dualforce_model.errors import BadInput
from dualforce_model.faces import FaceCropConfig
from dualforce_model.features import FEATURES
from dualforce_model.media import Clip
from dualforce_model.quality import QualityConfig
from dualforce_model.store import ledger, write_json, write_tensors

FILES = ("good_late_video.mp4", "bad_two_faces.mp4", "bad_no_face.mp4", "bad_no_audio.mp4", "bad_truncated.mp4")
HOSTILE = "a <img src=x onerror='alert(1)'> & \"b\" \U0001f3ac\nsecond line.mp4"


def row(stage: str, **values: Any) -> dict[str, Any]:
    return {"stage": stage, "status": "accepted", "seconds": 1.0, "finished_at": "2026-01-01T00:00:00", **values}


def refused(error: errors.Verdict) -> dict[str, str]:
    status = "failed" if isinstance(error, BadInput) else "rejected"
    return {"status": status, "reason": error.reason, "message": str(error)}


def scored(run: Path, clip_id: str) -> dict[str, Any]:
    scores = quality.measure(Clip(run / "clips", clip_id))
    problems = quality.verdict(scores, QualityConfig())
    told = {
        "status": "rejected" if problems else "accepted",
        "reason": problems[0][0] if problems else "",
        "message": "; ".join(text for _, text in problems),
        "reasons": [reason for reason, _ in problems],
    }
    return told | {ledger.SCORE + k: None if v is None else float(v) for k, v in scores.items()}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for k, scene in enumerate(SCENES):
        if scene.file in FILES:
            render_scene(scene, folder, (0, k))
    shutil.copy(folder / "bad_truncated.mp4", folder / HOSTILE)
    return folder


@pytest.fixture(scope="session")
def run(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder as the stages leave it, up to the features and a training log."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    crop = FaceCropConfig(size=256)
    found, cropped, measured = [], [], []
    for k, path in enumerate(sorted(sources.iterdir())):
        base = {"source": path.name, "source_id": f"source-{k}"}
        facts: dict[str, Any] = {"path": str(path)}
        try:
            facts["probe"] = dataclasses.asdict(media.probe(path))
        except errors.Verdict as error:
            found.append(row("source", **base, **refused(error), facts=json.dumps(facts)))
            continue
        found.append(row("source", **base, facts=json.dumps(facts)))
        try:
            sidecars = faces.crop_source(path, f"source-{k}", "0" * 32, folder / "clips", crop)
        except errors.Verdict as error:
            cropped.append(row("face_crop", **base, **refused(error)))
            continue
        for sidecar in sidecars:
            clip = {**base, "clip_id": sidecar["clip_id"]}
            cropped.append(row("face_crop", **clip, facts=json.dumps(sidecar)))
            measured.append(row("quality", **clip, **scored(folder, sidecar["clip_id"])))
    for stage, rows in (("source", found), ("face_crop", cropped), ("quality", measured)):
        ledger.write_part(folder, stage, 0, rows)
    accepted = [r for r in measured if r["status"] == "accepted"]
    for name, feature in FEATURES.items():
        for clip in accepted:
            provenance = {"identity": "0" * 32, "backend": feature.config().backend}
            arrays = feature.extract(Clip(folder / "clips", clip["clip_id"]), feature.config())
            write_tensors(folder / "features" / name / f"{clip['clip_id']}.safetensors", arrays, provenance)
        kept = ("source", "source_id", "clip_id")
        ledger.write_part(folder, name, 0, [row(name, **{k: clip[k] for k in kept}) for clip in accepted])
    log = folder / "checkpoints" / "some" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(
        "".join(json.dumps({"step": k, "loss": 2.0 / k, "seconds": 0.1}) + "\n" for k in range(1, 60)) + '{"step"'
    )
    settings = {"name": "small <run>", "face_crop": configs.to_dict(crop), "quality": configs.to_dict(QualityConfig())}
    write_json(folder / "run.json", {"format": 1, "config": settings})
    return folder
