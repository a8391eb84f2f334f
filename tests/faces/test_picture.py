"""The reference picture of generation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dualforce_model.errors import Rejected
from dualforce_model.faces import FaceCropConfig, crop_picture


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("name", ["sadtalker_people_0.png", "hallo_2.jpg", "lp_d12.jpg"])
def test_one_face(shared_data, name):
    crop = crop_picture(read(shared_data / "images" / name), FaceCropConfig(size=256))
    assert crop.shape == (256, 256, 3)
    assert crop.dtype == np.uint8


def test_a_group_is_refused(shared_data):
    with pytest.raises(Rejected) as caught:
        crop_picture(read(shared_data / "images" / "insightface_t1_group.jpg"), FaceCropConfig())
    assert caught.value.reason == "several_faces"


def test_no_face_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    with pytest.raises(Rejected) as caught:
        crop_picture(noise, FaceCropConfig())
    assert caught.value.reason == "no_face"
    with pytest.raises(ValueError, match="RGB"):
        crop_picture(noise[:, :, 0], FaceCropConfig())
