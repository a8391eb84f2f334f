"""Who is one person by the face: measured with the quality, kept, and used by the metadata to keep people apart."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from embedder import random_arcface
from prepared import run_folder

from dualforce_model import weights
from dualforce_model.faces import identity
from dualforce_model.media import Clip
from dualforce_model.metadata import MetadataConfig
from dualforce_model.quality import MeasureConfig
from dualforce_model.store import read_tensors, write_tensors
from dualforce_model.weights.place import use_folder
from tasks import metadata, quality
from tasks.config import RunConfig
from tasks.run import Run, RunError
from tasks.stage import Item


@pytest.fixture
def run_dir(shared_data, tmp_path_factory, tmp_path, monkeypatch):
    shutil.copytree(run_folder(tmp_path_factory, shared_data), tmp_path / "run")
    here = tmp_path / "buffalo_l"
    here.mkdir()
    for name in weights.WEIGHTS["buffalo_l"].files:
        (here / name.path).write_bytes(b"not used")
    random_arcface(here / identity.FILE)
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "weights"))
    use_folder(weights.WEIGHTS["buffalo_l"], here)
    identity.embedder.cache_clear()
    yield tmp_path / "run"
    identity.embedder.cache_clear()


def measured(run_dir, clip_id):
    item = Item("id-" + clip_id, "s", "s.mp4", clip_id, {"config": MeasureConfig(identity="arcface")})
    (row,) = quality.work(item, run_dir, reuse=True)
    return row


def test_the_metadata_keeps_together_whoever_looks_alike(run_dir):
    clips = sorted(path.stem for path in (run_dir / "clips").glob("*.json"))
    rows = {clip: measured(run_dir, clip) for clip in clips}
    for clip, row in rows.items():
        person = read_tensors(run_dir / row.files[0])["person"]
        np.testing.assert_allclose(np.linalg.norm(person), 1, atol=1e-5)
        assert 0 < row.scores["identity_consistency"] <= 1, clip
    # the random network tells nobody apart, so three people are given faces of their own, one of them twice
    one, same, other = clips
    for clip, axis in ((one, 0), (same, 0), (other, 1)):
        write_tensors(
            run_dir / rows[clip].files[0], {"person": np.eye(2, 512, dtype=np.float32)[axis]}, {"identity": clip}
        )

    listed = [
        {"clip_id": clip, "source_id": clip, "source": f"{clip}.mp4", "frames": Clip(run_dir / "clips", clip).frame_count,
         "person": rows[clip].files[0]}
        for clip in clips
    ]  # fmt: skip
    config = MetadataConfig(identity_from="face", val_share=0.4, test_share=0.0)
    metadata.work(Item("id", "", "", payload={"clips": listed, "config": config, "face_crop": {}}), run_dir, reuse=True)
    table = pd.read_parquet(run_dir / "metadata.parquet").set_index("clip_id")
    assert table.loc[one, "group"] == table.loc[same, "group"] == f"face:{one}"
    assert table.loc[other, "group"] == f"face:{other}"


def test_faces_that_were_not_measured_are_asked_for(tmp_path):
    config = RunConfig(metadata=MetadataConfig(identity_from="face"))
    with pytest.raises(RunError, match=r"needs measure\.identity=arcface"):
        metadata.check(Run(tmp_path, config))
