"""The motion and FLAME backends on a real clip: layouts, validity, crops, templates. Weights are random, full size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dualforce_model import weights
from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.features import FEATURES, emoca, face_square, flame, liveportrait, struct_latents
from dualforce_model.features.networks import deca
from dualforce_model.features.networks import liveportrait as published
from dualforce_model.media import Clip

TEMPLATES = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory, reference):
    """Random weights in the published layouts."""
    root = tmp_path_factory.mktemp("weights")
    motion = root / "liveportrait" / published.FILE
    motion.parent.mkdir(parents=True)
    torch.save(reference("liveportrait_motion_extractor")[0], motion)
    (root / "deca").mkdir()
    torch.save({"E_flame": reference("deca_coarse_encoder")[0]}, root / "deca" / "deca_model.tar")
    return root


@pytest.fixture(autouse=True)
def here(root, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(root))
    monkeypatch.setenv("DUALFORCE_DEVICE", "cpu")


@pytest.fixture(scope="module")
def clip(shared_data, tmp_path_factory):
    """The first second of a real clip, of which some frames have no landmarks."""
    import json

    from dualforce_model.media import write_video
    from dualforce_model.store import write_tensors

    folder = tmp_path_factory.mktemp("clips")
    (facts,) = crop_source(shared_data / "clips" / "good_hdtf_may_512_25.mp4", "may", "may", folder, FaceCropConfig())
    whole, short = Clip(folder, facts["clip_id"]), Clip(folder, "short")
    frames = 12
    write_video(short.video, (f for _, f in zip(range(frames), whole.frames(), strict=False)), None, 16_000)
    arrays = {name: value[:frames].copy() for name, value in whole.read_landmarks().items()}
    arrays["valid"][[0, 5]] = False
    write_tensors(short.landmarks, arrays, {"identity": "short"})
    short.sidecar.write_text(json.dumps(facts | {"clip_id": "short", "frames": frames, "source": {"audio": None}}))
    return short


def test_motion_templates_survive_the_layout(shared_data):
    files = sorted((shared_data / "templates").glob("*.safetensors"))
    assert len(files) == TEMPLATES
    for path in files:
        motion = load_file(path)
        struct = liveportrait.pack(motion["R"], motion["exp"], motion["t"], motion["scale"])
        assert struct.shape == (len(motion["R"]), 72)
        again = liveportrait.unpack(struct)
        for name in ("exp", "t", "scale"):
            np.testing.assert_array_equal(again[name], motion[name], err_msg=f"{path.name} {name}")
        np.testing.assert_allclose(again["R"], motion["R"], atol=2e-6, err_msg=path.name)


def test_struct_by_liveportrait(clip):
    config = struct_latents.StructLatentsConfig(
        backend="liveportrait", liveportrait=liveportrait.LivePortraitConfig(batch=4, precision="float32")
    )
    out = FEATURES["struct_latents"].extract(clip, config)
    assert out["struct"].shape == (12, 72)
    assert out["valid"].tolist() == [False, True, True, True, True, False, *[True] * 6]
    np.testing.assert_array_equal(out["struct"][0], out["struct"][1])  # held until the first face
    np.testing.assert_array_equal(out["struct"][5], out["struct"][4])
    rotation = struct_latents.rotation_of(out["struct"])
    np.testing.assert_allclose(rotation @ rotation.swapaxes(1, 2), np.tile(np.eye(3), (12, 1, 1)), atol=1e-5)
    # the same picture given to the network alone
    landmarks = clip.read_landmarks()
    square = liveportrait.square_of(landmarks["landmarks"], landmarks["valid"])
    frame = list(clip.frames())[7]
    crop = torch.from_numpy(face_square.take(frame, square, 256)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        alone = published.load(weights.locate("liveportrait"))(crop)
    np.testing.assert_allclose(out["struct"][7, 9:], alone["exp"][0], atol=1e-4)
    np.testing.assert_allclose(out["struct"][7, 6:9], [*alone["t"][0, :2], alone["scale"][0, 0]], atol=1e-4)


def test_flame_by_deca(clip):
    config = flame.FlameConfig(backend="deca", encoder=emoca.EmocaConfig(batch=4, precision="float32"))
    out = FEATURES["flame"].extract(clip, config)
    assert out["flame"].shape == out["valid"].shape == (12, 159)
    assert out["valid"].all(1).tolist() == [False, True, True, True, True, False, *[True] * 6]
    assert not out["valid"].any(1)[0]
    assert np.ptp(out["flame"][:, flame.IDENTITY], axis=0).max() == 0  # one shape per clip
    assert np.ptp(out["flame"][:, flame.EXPRESSION], axis=0).max() > 0
    shapes = FEATURES["flame"].shapes(12, 512, config)
    assert shapes == {"flame": (12, 159), "valid": (12, 159)}


@pytest.mark.parametrize(("width", "own"), [(50, {}), (53, {"jaw": 50}), (56, {"pose": 50, "jaw": 53})])
def test_emoca_takes_from_its_own_encoder_what_that_gives(width, own):
    torch.manual_seed(0)
    network = deca.Coarse(deca.Encoder(), deca.Encoder(width)).eval()
    pictures = torch.rand(1, 3, deca.SIZE, deca.SIZE)
    with torch.inference_mode():
        out, code, expression = network(pictures), network.flame(pictures), network.expression(pictures)
    torch.testing.assert_close(out["expression"], expression[:, :50])
    for name, place in {"pose": 200, "jaw": 203}.items():  # in DECA's code, after shape, texture and expression
        there = expression[:, own[name] : own[name] + 3] if name in own else code[:, place : place + 3]
        torch.testing.assert_close(out[name], there)


def test_camera_keeps_points_where_they_are():
    """A point seen by the crop's camera and by the clip's is the same pixel."""
    camera = np.array([[9.0, 0.02, -0.01]])
    square, point, size = np.array([[300.0, 220.0, 250.0]]), np.array([0.03, 0.05]), 512
    in_crop = camera[0, 0] * (point + camera[0, 1:])
    pixel = square[0, :2] + in_crop * np.array([1, -1]) * square[0, 2] / 2
    whole = emoca.camera_in_clip(camera, square, size)[0]
    in_clip = whole[0] * (point + whole[1:])
    np.testing.assert_allclose((in_clip * np.array([1, -1]) + 1) * size / 2, pixel)


def test_shape_ignores_single_bad_frames():
    rows = np.random.default_rng(0).normal(1, 0.01, (50, 100)).astype(np.float32)
    rows[[3, 30]] = 100
    np.testing.assert_allclose(emoca.robust_mean(rows), 1, atol=0.02)
    np.testing.assert_allclose(emoca.robust_mean(rows[:1]), rows[0], atol=1e-6)
    assert deca.CODE["shape"] == 100


def test_the_square_turns_with_the_head(clip):
    """The upright square of a tilted head is that of the straight one: same side, centre turned along."""
    points = clip.read_landmarks()["landmarks"][1:2].astype(np.float64)
    turn = np.deg2rad(20)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = points.copy()
    turned[..., :2] = points[..., :2] @ matrix.T
    straight, tilted = face_square.upright(points, 2.2, -0.1)[0], face_square.upright(turned, 2.2, -0.1)[0]
    np.testing.assert_allclose(tilted[2], straight[2], rtol=1e-6)
    np.testing.assert_allclose(tilted[:2], matrix @ straight[:2], rtol=1e-6)


@pytest.mark.parametrize(
    ("feature", "name", "command"),
    [
        ("struct_latents", "liveportrait", "liveportrait"),
        ("flame", "emoca", "emoca"),
        ("audio_features", "hubert", "hubert_large"),
    ],
)
def test_missing_weights_stop_before_the_work(feature, name, command, tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path))
    spec = FEATURES[feature]
    with pytest.raises(weights.MissingWeightsError, match=f"dualforce weights fetch {command}"):
        spec.weights_of(spec.config(backend=name))


def test_weights_and_settings_belong_to_the_backend_that_uses_them():
    spec = FEATURES["struct_latents"]
    embedded, chosen = spec.config(), spec.config(backend="liveportrait")
    assert spec.settings(embedded) == {"backend": "mediapipe"}
    assert spec.weights_of(embedded) is None
    assert set(spec.settings(chosen)) == {"backend", "liveportrait"}
    assert spec.weights_of(chosen) == weights.digest("liveportrait")
