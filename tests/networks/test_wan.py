"""The streamed VAE against diffusers' own one-piece call, on small random networks of the real structure."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from dualforce_model.features.networks import wan
from dualforce_model.features.networks.device import numbers
from dualforce_model.weights import WeightsError

FRAMES, SIDE = 23, 16  # 6 latents, and two frames that fill none


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan")
    AutoencoderKLWan(base_dim=8).save_pretrained(folder / wan.FOLDER)
    return folder


@pytest.fixture(scope="module")
def vae(folder):
    return wan.load(folder, torch.float32, torch.device("cpu"), compiled=False)


@pytest.fixture(scope="module")
def frames():
    return torch.randint(
        0, 256, (1, 3, FRAMES, SIDE, SIDE + 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def encode(vae, frames, latents):
    stream = wan.EncoderStream(vae, latents)
    pieces = [stream.push(frame) for frame in frames.unbind(2)] + [stream.finish()]
    return torch.cat([p for p in pieces if p is not None], 2)


def decode(vae, latents, chunk):
    stream = wan.DecoderStream(vae, chunk)
    pieces = [stream.push(latent) for latent in latents.unbind(2)] + [stream.finish()]
    return torch.cat([p for p in pieces if p is not None], 2)


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_stream_equals_the_one_piece_encode(vae, frames, chunk):
    with numbers("float32"):
        whole = vae.vae.encode(frames.float() / 127.5 - 1).latent_dist.mode()
        whole = (whole - vae.mean) / vae.std
        got = encode(vae, frames, chunk)
    assert got.shape == (1, 16, 6, SIDE // 8, SIDE // 8 + 1)
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3])
def test_stream_equals_the_one_piece_decode(vae, chunk):
    latents = torch.randn(1, 16, 6, 2, 3, generator=torch.Generator().manual_seed(2))
    with numbers("float32"):
        whole = vae.vae.decode(latents * vae.std + vae.mean).sample
        got = decode(vae, latents, chunk)
    assert got.shape == (1, 3, 21, 16, 24)
    assert ((whole + 1) * 127.5 - got.float()).abs().max() <= 0.501


def test_pairs_of_frames_give_the_same(folder, vae, frames):
    paired = wan.load(folder, torch.float32, torch.device("cpu"), compiled=False)
    wan._pair(paired.vae.encoder.conv_in)
    with numbers("float32"):
        torch.testing.assert_close(encode(paired, frames, 2), encode(vae, frames, 2), atol=1e-5, rtol=1e-4)


def test_one_graph_per_direction(vae, frames):
    """Whatever compiles it: no breaks, and nothing is compiled again after a shape's first chunk."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    traced = wan.WanVae(vae.vae, torch.float32, torch.device("cpu"), compiled=False)
    traced._steady = {f: torch.compile(f, dynamic=False, fullgraph=True, backend="eager") for f in traced._steady}
    with numbers("float32"):
        torch.testing.assert_close(encode(traced, frames, 1), encode(vae, frames, 1))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_future_changes_nothing(vae, frames):
    other = frames.clone()
    other[:, :, 13:] = 255 - other[:, :, 13:]
    with numbers("float32"):
        a, b = encode(vae, frames, 2), encode(vae, other, 2)
    assert torch.equal(a[:, :, :4], b[:, :, :4])
    assert not torch.equal(a[:, :, 4], b[:, :, 4])


def test_memory_does_not_grow_with_the_clip(vae, frames):
    stream = wan.EncoderStream(vae, 1)
    sizes = []
    with numbers("float32"):
        for frame in frames.unbind(2):
            if stream.push(frame) is not None:
                held = [t.untyped_storage().nbytes() for t in stream._memory]
                sizes.append(sum(held))
    assert len(set(sizes[1:])) == 1  # the first chunk is one frame, its memory as large as any later one or smaller
    assert sizes[0] <= sizes[1]


def test_bfloat16_stays_near_float32(folder, vae, frames):
    half = wan.load(folder, torch.bfloat16, torch.device("cpu"), compiled=False)
    with numbers("bfloat16"):
        exact, rounded = encode(vae, frames, 2), encode(half, frames, 2)
    error = (exact - rounded).norm() / exact.norm()
    with numbers("bfloat16"):
        back, rounded_back = decode(vae, exact, 2).float(), decode(half, exact, 2).float()
    assert 0 < error < 0.01
    assert 0 < (back - rounded_back).square().mean().sqrt() < 2  # of 255 levels


def test_other_weights_are_refused(tmp_path):
    AutoencoderKLWan(base_dim=4, z_dim=48).save_pretrained(tmp_path / wan.FOLDER)
    with pytest.raises(WeightsError, match=r"Wan 2\.1"):
        wan.load(tmp_path, torch.float32, torch.device("cpu"), compiled=False)
    with pytest.raises(WeightsError, match="holds no AutoencoderKLWan"):
        wan.load(tmp_path / "nothing", torch.float32, torch.device("cpu"), compiled=False)


def test_the_published_size_loads(tmp_path):
    AutoencoderKLWan().save_pretrained(tmp_path / wan.FOLDER)
    full = wan.load(tmp_path, torch.bfloat16, torch.device("cpu"), compiled=False)
    assert 126e6 < sum(p.numel() for p in full.parameters()) < 128e6
    with numbers("bfloat16"):
        latents = encode(full, torch.zeros(1, 3, 5, SIDE, SIDE, dtype=torch.uint8), 1)
    assert latents.shape == (1, 16, 2, SIDE // 8, SIDE // 8)
    assert latents.isfinite().all()


def test_incomplete_weights_are_refused_and_not_filled_with_random_numbers(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (path,) = (tmp_path / wan.FOLDER).glob("*.safetensors")
    weights = load_file(path)
    del weights["encoder.conv_in.weight"]
    save_file(weights, path)
    with pytest.raises(WeightsError, match=r"missing \['encoder\.conv_in\.weight'\] \(1 in all\)"):
        wan.load(tmp_path, torch.float32, torch.device("cpu"), compiled=False)
