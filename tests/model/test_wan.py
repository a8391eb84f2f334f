"""Wan 2.1 weights: every key has its place, and a block computes what diffusers' block does."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from dualforce_model.model import Conditions, DualForce, WeightsError
from dualforce_model.model.block import Heard, Places
from dualforce_model.model.wan import picked, start_from_wan
from tests.model.support import tiny

LAYERS, HEADS, DIM = 5, 2, 24  # head dim 24 = 8 + 8 + 8


def small_wan():
    torch.manual_seed(0)
    wan = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=HEADS, attention_head_dim=DIM, in_channels=16, out_channels=16,
        text_dim=20, freq_dim=256, ffn_dim=80, num_layers=LAYERS, rope_max_seq_len=64,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in wan.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return wan.eval()


def ours(layers=3, ffn=80):
    size = {"width": HEADS * DIM, "layers": layers, "heads": HEADS, "ffn": ffn, "audio_layers": 1}
    torch.manual_seed(1)
    return DualForce(tiny(video=size, text_dim=20)).eval()


def test_blocks_are_picked_evenly():
    assert picked(20, 30) == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 26, 27, 29]
    assert picked(1, 30) == [0]
    with pytest.raises(WeightsError, match="31"):
        picked(31, 30)


def test_every_weight_has_its_place():
    wan, model = small_wan(), ours()
    left = start_from_wan(model, wan.state_dict())
    # what Wan has not: audio, the nulls
    assert all("audio" in name or "null" in name for name in left)
    chosen = picked(3, LAYERS)
    for mine, theirs in zip(model.video.layers(), chosen, strict=True):
        assert torch.equal(mine.attention.out.weight, wan.blocks[theirs].attn1.to_out[0].weight)
        assert torch.equal(mine.modulation, wan.blocks[theirs].scale_shift_table[0])
    kernel = model.video.embed.weight.reshape(HEADS * DIM, 36, 2, 2)
    assert torch.equal(kernel[:, :16], wan.patch_embedding.weight[:, :, 0])
    assert not kernel[:, 16:].any()


def test_a_block_is_diffusers_block():
    wan, model = small_wan(), ours(layers=LAYERS)
    start_from_wan(model, wan.state_dict())
    H = W = 6
    torch.manual_seed(2)
    latents, text, sigma = torch.randn(2, 16, 1, H, W), torch.randn(2, 7, 20), torch.tensor([[0.3], [0.8]])
    seen = {}
    wan.blocks[0].register_forward_hook(lambda module, given, out: seen.update(given=given, out=out))
    with torch.no_grad():
        theirs = wan(latents, sigma[:, 0] * 1000, text).sample
        x = model.video.tokens(latents, None)
        torch.testing.assert_close(x[:, 0], seen["given"][0], atol=1e-5, rtol=1e-5)
        # one frame sees itself alone: diffusers' full attention, without sink and without sound
        level, modulation = model.video.noise(sigma)
        grid = (H // 2, W // 2)
        places = model.places(model.video, torch.zeros(2, 1, 1), model.rest(grid, x.device))
        plain = Places(places.full, None, places.time)
        tokens, mask = model.video.text(Conditions(text=text), 2)
        for i, block in enumerate(model.video.layers()):
            keys, values = block.text.hear(tokens)
            x = block(x, modulation, plain, Heard((keys[:, None], values[:, None]), mask[:, None, None], None))
            if i == 0:
                torch.testing.assert_close(x[:, 0], seen["out"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.video.velocity(x, level, grid), theirs, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_said():
    state = small_wan().state_dict()
    with pytest.raises(WeightsError, match="ffn_in"):
        start_from_wan(ours(ffn=64), state)
    with pytest.raises(WeightsError, match="no rule for Wan's 'surprise'"):
        start_from_wan(ours(), {**state, "surprise": torch.zeros(1)})
    del state["proj_out.weight"]
    with pytest.raises(WeightsError, match=r"proj_out\.weight"):
        start_from_wan(ours(), state)
