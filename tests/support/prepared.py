"""A small prepared run folder, made of real clips by the library itself: what training reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualforce_model import config as configs
from dualforce_model import metadata
from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.features import FEATURES
from dualforce_model.media import Clip
from dualforce_model.store import identity, write_tensors

SIZE = 96
SOURCES = ("good_hdtf_may_512_25.mp4", "good_hdtf_aoc_512_25.mp4", "good_retalk1_700_30.mp4")


def run_folder(factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """clips/, features/ and the metadata files of three people; one of them is held out (val)."""
    folder = factory.getbasetemp() / "prepared"
    if (folder / "metadata.json").exists():  # written last
        return folder
    for name in SOURCES:
        source = shared_data / "clips" / name
        crop_source(source, Path(name).stem, identity(source=name), folder / "clips", FaceCropConfig(size=SIZE))
    clips = [Clip(folder / "clips", p.stem) for p in sorted((folder / "clips").glob("*.json"))]
    for name, feature in FEATURES.items():
        settings = feature.config()
        for clip in clips:
            made = feature.extract(clip, settings)
            provenance = {
                "identity": identity(feature=name, clip=clip.clip_id),
                "clip_id": clip.clip_id,
                "feature": name,
                "backend": settings.backend,
                "version": feature.version,
                "config": configs.to_dict(settings),
            }
            write_tensors(folder / "features" / name / f"{clip.clip_id}.safetensors", made, provenance)
    rows = [{"clip_id": c.clip_id, "source_id": c.info["source_id"], "frames": c.frame_count} for c in clips]
    config = metadata.MetadataConfig(val_share=0.34, test_share=0.0, seed=6)
    metadata.build(folder, rows, {name: folder / "features" / name for name in FEATURES}, config)
    return folder
