"""The drift report finds what was put in, keeps nothing of the frames, and says when nobody was asked about identity."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dualforce_model.faces.identity import Embedder
from dualforce_model.generate.drift import Drift, knower


def facts_of(reference, frames, know=None):
    drift = Drift(reference, know)
    for frame in frames:
        drift.see(frame)
    return json.loads(json.dumps(drift.facts()))  # it is plain data


def test_a_face_that_stays_does_not_drift(picture):
    facts = facts_of(picture, [picture] * 600)
    assert [(row["from_s"], row["to_s"]) for row in facts["rows"]] == [(0, 10), (10, 20), (20, 24)]
    for row in facts["rows"]:
        assert row["reference_similarity"] == pytest.approx(1, abs=1e-4)
        assert row["sharpness"] == pytest.approx(facts["reference"]["sharpness"], rel=1e-3)
        assert row["colour"] == pytest.approx(facts["reference"]["colour"], rel=1e-3)
        assert row["identity_similarity"] is None
    assert facts["identity_by"] is None
    assert facts["change"]["colour"] == [0, 0, 0]


def test_what_fades_and_blurs_and_leaves_is_seen(picture):
    soft = picture.astype(float)
    for _ in range(3):
        soft = (soft + np.roll(soft, 1, 0) + np.roll(soft, 1, 1)) / 3
    worse = np.clip(soft + np.array([20, 0, -20]), 0, 255).astype(np.uint8)
    gone = np.roll(picture, 40, 1)
    change = facts_of(picture, [picture] * 250 + [worse] * 250)["change"]
    assert change["sharpness"] < 0
    assert change["colour"][0] > 10
    assert change["colour"][2] < -10
    assert -0.2 < change["reference_similarity"] < 0
    assert facts_of(picture, [picture] * 250 + [gone] * 250)["change"]["reference_similarity"] < -0.3


def test_identity_is_measured_where_the_weights_are(shared_data, tmp_path, monkeypatch):
    from embedder import random_arcface
    from PIL import Image

    from dualforce_model.faces import FaceCropConfig, crop_picture

    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path))
    assert knower() is None
    random_arcface(tmp_path / "arcface.onnx")
    with Image.open(shared_data / "images" / "sadtalker_people_0.png") as image:
        face = crop_picture(np.asarray(image.convert("RGB")), FaceCropConfig(size=256))
    facts = facts_of(face, [face] * 10 + [np.zeros_like(face)] * 60, Embedder(str(tmp_path / "arcface.onnx")))
    assert facts["identity_by"] == "arcface"
    assert facts["rows"][0]["identity_similarity"] == pytest.approx(1, abs=1e-3)  # faceless frames do not count


def test_nothing_seen_is_said():
    facts = facts_of(np.zeros((64, 64, 3), np.uint8), [])
    assert facts["rows"] == []
    assert facts["change"] is None


def test_the_report_tells_it_in_a_line(picture):
    from dualforce_model.report.films import _drift

    facts = facts_of(picture, [picture] * 300)
    line = _drift(facts)
    assert line.startswith("likeness to the picture 1.000 → 1.000, sharpness ")
    assert "mean colour" in line
    assert "identity" not in line
    for nothing in (None, {}, {"rows": []}, {"rows": [{}]}, {"rows": "words"}):
        assert _drift(nothing) == ""
