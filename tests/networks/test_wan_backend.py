"""The VAE behind the video latents: a real clip streamed through it, tiles, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from dualforce_model import weights
from dualforce_model.config import ConfigError
from dualforce_model.features import wan_vae
from dualforce_model.features.wan_vae import Tiles, WanVaeConfig


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch):
    """A small random network in the place of the published one."""
    root = tmp_path_factory.mktemp("root")
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(root))
    monkeypatch.setenv("DUALFORCE_DEVICE", "cpu")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4).save_pretrained(root / "wan_vae" / "vae")
    wan_vae.load.cache_clear()
    yield
    wan_vae.load.cache_clear()


def pictures(count, height, width):
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([127 + 100 * np.sin(0.1 * (x + k * t) + 0.07 * y) for k in (1, 2, 3)], -1).astype(np.uint8)
        for t in range(count)
    ]


def test_missing_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.MissingWeightsError, match="dualforce weights fetch wan_vae"):
        wan_vae.encode_still(np.zeros((16, 16, 3), np.uint8), WanVaeConfig())


def test_chunks_of_any_length_give_the_same_latents_and_pictures():
    frames = pictures(15, 32, 24)
    configs = [WanVaeConfig(chunk=n, precision="float32") for n in (1, 2, 3)]
    latents = [np.concatenate(list(wan_vae.encode(frames, c)), 1) for c in configs]
    assert latents[0].shape == (16, 4, 4, 3)
    for other in latents[1:]:
        np.testing.assert_allclose(other, latents[0], atol=1e-4)
    np.testing.assert_array_equal(wan_vae.encode_still(frames[0], configs[0]), latents[0][:, 0].astype(np.float16))
    decoded = [np.stack(list(wan_vae.decode(latents[0].swapaxes(0, 1), c))) for c in configs]
    assert decoded[0].shape == (13, 32, 24, 3)
    assert decoded[0].dtype == np.uint8
    for other in decoded[1:]:
        assert np.abs(decoded[0].astype(int) - other).max() <= 1


def test_tiles_cover_and_rejoin_exactly():
    config = WanVaeConfig(tile=64, overlap=16)
    tiles = Tiles(136, 64, config)
    assert tiles.corners == [(0, 0), (32, 0), (72, 0)]
    whole = np.random.default_rng(0).standard_normal((3, 136, 64)).astype(np.float32)
    np.testing.assert_allclose(tiles.join(tiles.cut(whole)), whole, atol=1e-6)
    cells = np.random.default_rng(0).standard_normal((16, 2, 17, 8)).astype(np.float32)
    np.testing.assert_allclose(tiles.join(tiles.cut(cells, 8), 8), cells, atol=1e-6)
    assert Tiles(512, 512, WanVaeConfig()).corners == [(0, 0)]
    with pytest.raises(ValueError, match="multiples of 8"):
        Tiles(65, 64, config)
    with pytest.raises(ConfigError, match="0 < overlap < tile"):
        WanVaeConfig(overlap=512)


def test_large_pictures_go_through_tiles():
    frames = pictures(5, 96, 64)
    tiled = WanVaeConfig(tile=64, overlap=32, precision="float32", chunk=1)
    latents = np.concatenate(list(wan_vae.encode(frames, tiled)), 1)
    assert latents.shape == (16, 2, 12, 8)
    alone = np.concatenate(list(wan_vae.encode([f[:64] for f in frames], tiled)), 1)
    np.testing.assert_allclose(latents[:, :, :4], alone[:, :, :4], atol=1e-4)  # only one tile sees the first rows
    decoded = np.stack(list(wan_vae.decode(latents.swapaxes(0, 1), tiled)))
    assert decoded.shape == (5, 96, 64, 3)


def test_generation_paints_each_latent_at_once():
    config = WanVaeConfig(precision="float32")
    latents = np.random.default_rng(0).standard_normal((4, 16, 3, 3)).astype(np.float32)
    paint = wan_vae.painter(config)
    pieces = [paint(latent, index) for index, latent in enumerate(latents)]
    assert [len(piece) for piece in pieces] == [1, 4, 4, 4]
    whole = np.stack(list(wan_vae.decode(latents, config)))
    assert np.abs(np.concatenate(pieces).astype(int) - whole).max() <= 1
