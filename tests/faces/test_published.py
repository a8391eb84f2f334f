"""Backends with the real small files: SCRFD, the Face Landmarker, Silero; ArcFace's loader on a random network."""

from __future__ import annotations

import numpy as np
import pytest
from embedder import random_arcface

from dualforce_model import faces, quality, weights
from dualforce_model.bench.agree import agreement
from dualforce_model.errors import Rejected
from dualforce_model.faces import FaceCropConfig, crop_picture, crop_source, identity
from dualforce_model.faces.detect import detector
from dualforce_model.faces.insightface import finder_of, insightface_detector
from dualforce_model.media import Clip
from dualforce_model.quality import MeasureConfig, measure
from dualforce_model.quality.silero import speech_ratio, vad
from dualforce_model.quality.sound import listen
from dualforce_model.weights.place import use_folder

SPEAKING = ("good_hdtf_may_512_25", "good_hdtf_aoc_512_25", "good_retalk1_700_30")
FRAMES = 75


@pytest.fixture(scope="module", autouse=True)
def root(shared_data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DUALFORCE_WEIGHTS", str(tmp_path_factory.mktemp("weights")))
        for name in ("scrfd_500m", "face_landmarker", "silero_vad"):
            use_folder(weights.WEIGHTS[name], shared_data / "weights")
        yield


@pytest.fixture(scope="module")
def clips(shared_data, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("clips"), FaceCropConfig(backend="insightface", insightface="scrfd_500m")
    made = {}
    for name in SPEAKING:
        (facts,) = crop_source(shared_data / "clips" / f"{name}.mp4", name, name, folder, config)
        made[name] = Clip(folder, facts["clip_id"])
    return made


@pytest.mark.parametrize("name", SPEAKING)
def test_detectors_agree(clips, name):
    frame = next(iter(clips[name].frames()))
    ours = detector(0.5, 0.99).search(frame, 1.0, [], tiles=False)[0]
    (theirs,) = insightface_detector("scrfd_500m", 0.5, 0.99).search(frame, 1.0, [], tiles=False)
    assert theirs.side == pytest.approx(ours.side, rel=0.15)
    assert np.hypot(theirs.x - ours.x, theirs.y - ours.y) < 0.15 * ours.side


def test_pictures_by_insightface(shared_data):
    import cv2

    config = FaceCropConfig(backend="insightface", insightface="scrfd_500m")

    def picture(name):
        return cv2.cvtColor(cv2.imread(str(shared_data / "images" / name)), cv2.COLOR_BGR2RGB)

    assert crop_picture(picture("lp_s9.jpg"), config).shape == (512, 512, 3)
    with pytest.raises(Rejected, match="faces in the picture"):
        crop_picture(picture("insightface_t1_group.jpg"), config)
    assert len(finder_of(config).search(picture("insightface_t1_group.jpg"), 1.0, [], tiles=False)) == 6


@pytest.mark.parametrize("name", SPEAKING)
def test_landmark_backends_agree(clips, name):
    found = agreement(clips[name], FRAMES)
    assert found["frames"] > 0.95 * FRAMES
    assert found["rotation_median"] < 4
    assert found["rotation_95"] < 6
    assert found["mouth"] > 0.95
    assert abs(found["mouth_earlier"] - found["mouth_later"]) < 0.1  # smoothed over time, the landmarker was behind
    assert found["mouth_jaw_open"] > 0.5
    assert 0.85 < found["box"] < 1.15


def test_clips_with_blendshapes(shared_data, tmp_path):
    config = FaceCropConfig(landmarks="landmarker")
    (facts,) = crop_source(shared_data / "clips" / "good_hdtf_may_512_25.mp4", "may", "may", tmp_path, config)
    arrays = Clip(tmp_path, facts["clip_id"]).read_landmarks()
    count = facts["frames"]
    assert arrays["blendshapes"].shape == (count, 52)
    assert arrays["matrix"].shape == (count, 4, 4)
    assert facts["faces"]["coverage"] > 0.95
    assert 0 <= arrays["blendshapes"].min() <= arrays["blendshapes"].max() <= 1


@pytest.mark.parametrize("name", SPEAKING)
def test_speech_ratio_by_silero(clips, name):
    audio = clips[name].audio()
    heard = speech_ratio(audio)
    assert heard > 0.5
    assert abs(heard - listen(audio).speech_ratio) < 0.25
    assert measure(clips[name], MeasureConfig(speech="silero"))["speech_ratio"] == pytest.approx(heard, abs=1e-6)


def test_silence_and_noise_are_no_speech():
    rng = np.random.default_rng(0)
    assert speech_ratio(np.zeros(16000, np.float32)) == 0
    assert speech_ratio(rng.standard_normal(32000).astype(np.float32) * 0.1) < 0.1
    assert speech_ratio(np.zeros(0, np.float32)) == 0
    assert vad()(np.zeros(1000, np.float32)).shape == (2,)


@pytest.fixture(scope="module")
def arcface(tmp_path_factory):
    path = tmp_path_factory.mktemp("arcface") / identity.FILE
    random_arcface(path)
    return identity.Embedder(str(path))


def test_identity_of_clips(clips, arcface):
    found = {name: identity.embed(clip, arcface) for name, clip in clips.items()}
    for vectors in found.values():
        assert vectors.shape == (identity.FRAMES, 512)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert 0 <= identity.drift(vectors) < 0.1
        assert identity.consistency(vectors) > 0.9


def test_groups_are_chains_of_likeness():
    a, b, c, d = np.eye(4, 512)
    near = (a + b) / np.sqrt(2)
    persons = {"k1": a, "k2": near, "k3": b, "k4": c, "k5": d}
    assert identity.groups(persons) == {"k1": "k1", "k2": "k1", "k3": "k1", "k4": "k4", "k5": "k5"}
    assert identity.groups({}) == {}
    listed = identity.groups({"k1": a, "k2": c, "k3": c}, {"k1": "Ann", "k2": "Bob", "k4": "Ann"})
    assert listed == {"k1": "k1", "k2": "k2", "k3": "k2", "k4": "k1"}


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.MissingWeightsError, match="dualforce weights fetch buffalo_l"):
        faces.weights_of(FaceCropConfig(backend="insightface"))
    with pytest.raises(weights.MissingWeightsError, match="dualforce weights fetch face_landmarker"):
        faces.weights_of(FaceCropConfig(landmarks="landmarker"))
    with pytest.raises(weights.MissingWeightsError, match="dualforce weights fetch silero_vad"):
        quality.weights_of(MeasureConfig(speech="silero"))
    assert faces.weights_of(FaceCropConfig()) == quality.weights_of(MeasureConfig()) == []
