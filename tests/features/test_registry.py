from __future__ import annotations

import hashlib

import numpy as np
import pytest
from made_clip import make_clip

from dualforce_model import timeline
from dualforce_model.features import FEATURES
from dualforce_model.store import write_tensors


def test_the_five_features():
    assert list(FEATURES) == ["video_latents", "struct_latents", "flame", "audio_features", "reference"]
    stated = [feature.summed.stated_as for feature in FEATURES.values()]
    assert stated == ["latents", "struct", "flame", "audio", None]


@pytest.mark.parametrize("name", FEATURES)
def test_shapes_types_and_repeatability_on_a_real_clip(may, tmp_path, name):
    feature = FEATURES[name]
    config = feature.config()
    digests = set()
    for attempt in range(2):
        arrays = feature.extract(may, config)
        assert {k: v.shape for k, v in arrays.items()} == feature.shapes(may.frame_count, may.info["size"], config)
        assert {k: str(v.dtype) for k, v in arrays.items()} == {k: a.dtype for k, a in feature.arrays.items()}
        assert all(np.isfinite(v).all() for v in arrays.values())
        path = tmp_path / f"{attempt}.safetensors"
        write_tensors(path, arrays, {"identity": "x", "statistics": feature.statistics(arrays)})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("frames", [5, 6, 7, 8, 9])
def test_every_length_fits_the_timeline(tmp_path, frames):
    clip = make_clip(tmp_path, "x", np.full((frames, 32, 32, 3), 128, np.uint8))
    for feature in FEATURES.values():
        config = feature.config()
        made = feature.extract(clip, config)
        assert {k: v.shape for k, v in made.items()} == feature.shapes(frames, 32, config)
    assert FEATURES["video_latents"].shapes(frames, 32, None)["latents"][1] == timeline.latent_count(frames)


def test_statistics_count_valid_values_only():
    feature = FEATURES["flame"]
    rng = np.random.default_rng(0)
    flame, valid = rng.standard_normal((7, 159)).astype(np.float32), rng.random((7, 159)) < 0.5
    found = feature.statistics({"flame": flame, "valid": valid})
    for d in (0, 50, 158):
        kept = flame[valid[:, d], d].astype(float)
        assert found["count"][d] == len(kept)
        assert found["sum"][d] == pytest.approx(kept.sum())
        assert found["squares"][d] == pytest.approx((kept**2).sum())
    struct = FEATURES["struct_latents"].statistics(
        {"struct": np.ones((4, 72)), "valid": np.array([True, False, True, True])}
    )
    assert set(struct["count"]) == {3}
    latents = FEATURES["video_latents"].statistics({"latents": np.ones((16, 3, 2, 2), np.float16)})
    assert latents == {"count": [12] * 16, "sum": [12.0] * 16, "squares": [12.0] * 16}


def test_statistics_refuse_what_is_not_finite():
    struct = np.ones((4, 72), np.float32)
    struct[1, 3] = np.inf
    with pytest.raises(FloatingPointError, match="struct"):
        FEATURES["struct_latents"].statistics({"struct": struct, "valid": np.zeros(4, bool)})
