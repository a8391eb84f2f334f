"""The networks against reference outputs of the published code, loaded from files in the official layouts."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from dualforce_model.features.networks import deca, liveportrait
from dualforce_model.features.networks.device import numbers
from dualforce_model.weights import WeightsError


@pytest.fixture(scope="module")
def liveportrait_folder(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("liveportrait")
    path = folder / liveportrait.FILE
    path.parent.mkdir(parents=True)
    torch.save(reference("liveportrait_motion_extractor")[0], path)
    return folder


def test_liveportrait_equals_the_reference(liveportrait_folder, reference, closed_form):
    network = liveportrait.load(liveportrait_folder)
    expected = reference("liveportrait_motion_extractor")[1]
    with numbers("float32"):
        got = network(closed_form.image(2, liveportrait.SIZE))
    assert set(got) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 28.12


def test_deca_and_emoca_layouts_equal_the_reference(reference, closed_form, tmp_path):
    weights, expected = reference("deca_coarse_encoder")
    torch.save({"E_flame": weights, "D_detail": {"x": torch.zeros(2)}}, tmp_path / "deca_model.tar")
    other = dict(weights) | {k: weights[k][:50] for k in ("layers.2.weight", "layers.2.bias")}
    lightning = {f"deca.E_flame.{k}": v for k, v in weights.items()}
    lightning |= {f"deca.E_expression.{k}": v * 1 for k, v in other.items()} | {"emonet_loss.a": torch.zeros(1)}
    trainer = {"callbacks": {Path("x"): np.float64(3.25)}, "hyper_parameters": argparse.Namespace(lr=1)}
    torch.save({"epoch": 3, "state_dict": lightning} | trainer, tmp_path / "deca-epoch=03.ckpt")
    pictures = closed_form.image(2, deca.SIZE)
    code = expected["code"]
    with numbers("float32"):
        network = deca.load(tmp_path / "deca_model.tar")
        torch.testing.assert_close(network.flame(pictures), code, atol=1e-4, rtol=0)
        got = network(pictures)
        emoca = deca.load(tmp_path / "deca-epoch=03.ckpt")(pictures)
    for name, columns in {
        "shape": (0, 100),
        "expression": (150, 200),
        "pose": (200, 203),
        "jaw": (203, 206),
        "camera": (206, 209),
    }.items():
        torch.testing.assert_close(got[name], code[:, slice(*columns)], atol=1e-4, rtol=0)
        if name != "expression":
            torch.testing.assert_close(emoca[name], got[name])
    # EMOCA's expression comes from its own encoder, which here gives what the other one calls shape
    torch.testing.assert_close(emoca["expression"], code[:, :50], atol=1e-4, rtol=0)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    path = tmp_path / liveportrait.FILE
    path.parent.mkdir(parents=True)
    torch.save({"detector.norm.weight": torch.zeros(7), "other": torch.zeros(1)}, path)
    with pytest.raises(
        WeightsError, match=r"missing: .*not known: other; 1 of another shape: detector.norm.weight \[7\]"
    ):
        liveportrait.load(tmp_path)
    path.write_bytes(b"<html>sign in</html>")
    with pytest.raises(WeightsError, match="no checkpoint"):
        liveportrait.load(tmp_path)


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"E_flame": Trap()}, tmp_path / "deca_model.tar")
    with pytest.raises(WeightsError):
        deca.load(tmp_path / "deca_model.tar")
    assert not (tmp_path / "run").exists()


def test_rotation_is_the_published_one():
    pitch, yaw, roll = (torch.tensor([a]) for a in (10.0, -20.0, 30.0))
    got = liveportrait.rotation(pitch, yaw, roll)[0].double().numpy()
    from scipy.spatial.transform import Rotation

    np.testing.assert_allclose(got, Rotation.from_euler("xyz", [10, -20, 30], degrees=True).as_matrix().T, atol=1e-6)
    logits = torch.full((1, 66), -1e4)
    logits[0, 40] = 0.0
    assert liveportrait.degrees(logits).item() == pytest.approx(40 * 3 - 97.5)
