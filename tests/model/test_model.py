"""Sizes, initial state, gradients, ablations, alignment in time, checkpointing, compilation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from dualforce_model.config import ConfigError
from dualforce_model.diffusion import Batch, DropRates, LossWeights, NoiseConfig, draw, generator_for, terms_of
from dualforce_model.model import DualForce, ModelConfig, audio_window, preset, presets
from dualforce_model.model.rotary import angles, rotate, split
from dualforce_model.model.sizes import parameters_by_part
from dualforce_model.timeline import audio_range, latent_of_raw, latent_time_of_audio, latent_time_of_raw
from tests.model.support import CASES, SMALL_TEXT, inputs, nudged, odd, tiny


def batch_of(config, B=2, F=3, H=4, W=6, start=0):
    given = inputs(config, B, F, H, W, start)
    return Batch(
        video=given.video,
        struct=given.struct,
        conditions=given.conditions,
        start=given.start,
        valid=torch.ones(B, F, dtype=torch.bool),
        flame=None if config.struct is None else torch.randn(B, F, 4, config.flame_dim),
    )


# -- sizes -----------------------------------------------------------------------------------------------------------

# millions of parameters by part; the table of docs/model.md
COUNTS = {
    "tiny": (0.41, 0.41, 0.03, 0.18, 0.09, 1.14),
    "small": (36.13, 36.09, 4.22, 7.90, 3.94, 88.29),
    "mova_lite": (764.72, 764.62, 113.45, 121.27, 33.84, 1797.92),
    "mova_lite_slim": (764.72, 98.41, 63.85, 69.11, 21.25, 1017.37),
    "mova_lite_wan": (937.80, 764.62, 113.45, 121.27, 33.84, 1970.99),
}


def test_every_preset_counts_what_the_docs_say():
    assert presets() == sorted(COUNTS)
    for name, expected in COUNTS.items():
        with torch.device("meta"):
            model = DualForce(preset(name))
        parts = parameters_by_part(model)
        assert sum(parts.values()) == sum(p.numel() for p in model.parameters())
        named = [parts[k] for k in ("video tower", "struct tower", "bridge", "audio", "noise level")]
        for found, wanted in zip([*named, sum(parts.values())], expected, strict=True):
            assert found / 1e6 == pytest.approx(wanted, abs=0.0051), f"{name}: {parts}"


def test_head_dims_split_over_time_height_and_width():
    assert split(128) == (44, 42, 42)
    for dim in (32, 64, 24, 20):
        assert sum(split(dim)) == dim
        assert all(part % 2 == 0 for part in split(dim))


@pytest.mark.parametrize("wrong", [
    {"audio_lookahead_ms": 30},
    {"window": 0},
    {"struct": None},
    {"bridge": {"strategy": "custom"}},
    {"bridge": {"strategy": "custom", "layers": [5]}},
    {"bridge": {"strategy": "full", "depth": 2}},
    {"video": {"width": 64, "layers": 2, "heads": 3, "ffn": 8, "audio_layers": 1}},
    {"video": {"width": 64, "layers": 2, "heads": 2, "ffn": 8, "audio_layers": 3}},
    {"bridges": {}},
    {"struct_tokens": 2},
])  # fmt: skip
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(ConfigError):
        tiny(**wrong)


def test_settings_survive_a_round_trip():
    for config in (tiny(), odd(), tiny(struct=None, bridge={"strategy": "none"})):
        assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="tiny"):
        preset("tny")


def test_bridge_strategies():
    def layers(total, **bridge):
        size = {"width": 64, "layers": total, "heads": 2, "ffn": 64, "audio_layers": 1}
        return tiny(video=size, struct=size, bridge=bridge).bridge_layers

    assert layers(20) == tuple(range(6))
    assert layers(20, depth=4) == tuple(range(4))
    assert layers(20, depth=12) == tuple(range(12))
    assert layers(20, strategy="full") == tuple(range(20))
    assert layers(20, strategy="distributed") == (0, 3, 6, 9, 12, 15, 18)
    assert layers(20, strategy="progressive") == (0, 1, 3, 6, 10, 15)
    assert layers(20, strategy="custom", layers=[7, 2]) == (2, 7)
    assert layers(20, strategy="none") == ()


# -- the initial state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [tiny(), odd()], ids=["tiny", "odd"])
def test_what_starts_silent_is_silent(config):
    torch.manual_seed(0)
    model = DualForce(config).eval()
    given = inputs(config, 2, 3, 4, 6)
    with torch.no_grad():
        out = given.through(model)
        assert not out.video.any()
        assert not out.struct.any()
        embedded = model.video.tokens(given.video, given.conditions.reference)
        seen = []
        model.video.head.register_forward_hook(lambda module, args, out: seen.append(args[0]))
        given.through(model)
    torch.testing.assert_close(seen[0], embedded)  # every block and bridge passes its input on untouched


def test_the_first_loss_is_its_closed_form():
    config = tiny()
    torch.manual_seed(0)
    model, batch = DualForce(config), batch_of(config)
    drawn = draw(batch, generator_for(0), NoiseConfig(independent=1, prefix=0, rising=0))
    found = terms_of(model, batch, drawn, LossWeights(flame=0))
    # velocity 0 everywhere: the loss is the mean square of noise - clean
    video = (drawn.video_noise - batch.video).square().mean()
    squares = (drawn.struct_noise - batch.struct).square().mean(-1)
    struct = squares.flatten(1)[:, 3:].mean()  # three empty slots in latent 0
    torch.testing.assert_close(found.terms["video"], video)
    torch.testing.assert_close(found.terms["struct"], struct)
    torch.testing.assert_close(found.total, video + 0.5 * struct)


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    tiny(), odd(), tiny(struct=None, bridge={"strategy": "none"}), tiny(struct_tokens=1),
    tiny(bridge={"direction": "struct_to_video"}), tiny(bridge={"direction": "video_to_struct"}),
], ids=["tiny", "odd", "video alone", "packed", "to video", "to struct"])  # fmt: skip
def test_gradients_reach_every_parameter(config):
    model, batch = nudged(config).train(), batch_of(config, B=4, start=1)
    drawn = draw(batch, generator_for(5), drops=DropRates(audio=0.5, text=0.5, reference=0.5))
    drawn.drop_audio = torch.tensor([True, False, True, False])
    drawn.drop_text, drawn.drop_reference = ~drawn.drop_audio, torch.tensor([True, True, False, False])
    terms_of(model, batch, drawn).total.backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # one-way bridges leave the stream that is not looked at without influence on the other, never without its own loss
    assert dead == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_frames_that_are_not_learned_give_no_gradient():
    config = tiny()
    model, batch = nudged(config), batch_of(config, F=4)
    batch.valid = torch.tensor([[True, True, False, False], [True] * 4])
    drawn = draw(batch, generator_for(1))

    def gradient():
        model.zero_grad()
        terms_of(model, batch, drawn).total.backward()
        return [p.grad.clone() for p in model.parameters()]

    before = gradient()
    batch.video = batch.video.clone()
    batch.video[0, :, 2:] = 7.0  # padding
    batch.struct = batch.struct.clone()
    batch.struct[0, 2:] = -7.0
    assert all(torch.equal(a, b) for a, b in zip(before, gradient(), strict=True))


# -- ablations: each changes what it says, and only that --------------------------------------------------------------


def test_ablations_change_what_they_say():
    base = tiny()
    same = {name: p.shape for name, p in DualForce(base).named_parameters()}

    def names(config):
        return {name: p.shape for name, p in DualForce(config).named_parameters()}

    alone = names(tiny(struct=None, bridge={"strategy": "none"}))
    assert alone == {k: v for k, v in same.items() if k.startswith("video.")}
    one_way = names(tiny(bridge={"direction": "struct_to_video"}))
    assert one_way == {k: v for k, v in same.items() if ".to_struct." not in k}
    deeper = names(tiny(bridge={"depth": 2}))
    assert {k: v for k, v in deeper.items() if not k.startswith("bridges.1.")} == same
    packed = names(tiny(struct_tokens=1))
    assert {k for k in same if same[k] != packed[k]} == {
        "struct.embed.weight", "struct.head.out.weight", "struct.head.out.bias",
    }  # fmt: skip
    assert names(tiny(audio_lookahead_ms=160, audio_left_ms=0, window=2)) == same


def test_a_one_way_bridge_lets_nothing_through_the_other_way():
    for direction, moves in (("struct_to_video", "video"), ("video_to_struct", "struct")):
        config = tiny(bridge={"direction": direction})
        model, given = nudged(config), inputs(config, 1, 3, 4, 4, start=2)
        with torch.no_grad():
            before = given.through(model)
            other_struct = given.changed(struct=given.struct + 1).through(model)
            other_video = given.changed(video=given.video + 1).through(model)
        assert torch.equal(before.video, other_struct.video) == (moves == "struct")
        assert torch.equal(before.struct, other_video.struct) == (moves == "video")


def test_published_ablations_load():
    from dualforce_model.configs.shape import ABLATIONS, ablation

    assert len(ABLATIONS) >= 9
    base = preset("tiny")
    for name in ABLATIONS:
        config, noise = ablation(name, preset("tiny", "video.layers=12", "struct.layers=12"))
        changed = {k for k, v in config.to_dict().items() if v != base.to_dict()[k]} - {"video"}
        assert changed | set(noise), f"{name} changes nothing"
        NoiseConfig(**noise)


# -- time --------------------------------------------------------------------------------------------------------------


def test_streams_meet_in_physical_time():
    config = tiny()
    model = nudged(config)
    for start in (0, 1, 7, 60):
        latent = start + torch.arange(4)[None]
        times = model.struct_times(latent)[0]
        for raw in range(max(0, 4 * start - 3), 4 * (start + 3) + 1):
            j = latent_of_raw(raw)
            slot = raw + 3 - 4 * j
            assert times[j - start, slot] == latent_time_of_raw(raw)
            # the audio window of that latent holds the features of the raw frame, at the same time
            features = torch.arange(1, 2 * 400 + 1, dtype=torch.float)[:, None].expand(-1, config.audio_dim)
            window, valid = audio_window(features, j, 1, config)
            assert window.shape == (config.audio_span, config.audio_dim)
            where = (window[:, 0] == 2 * raw + 1).nonzero()[0, 0]
            assert valid[where]
            assert config.audio_left + 2 * slot == where
            assert latent_time_of_audio(2 * raw) == latent_time_of_raw(raw)
        assert audio_range(start).stop == 8 * start + 2


def test_missing_sound_is_marked():
    config = tiny()
    features = torch.ones(2 * 5, config.audio_dim)  # T = 5 raw frames, 2 latents
    window, valid = audio_window(features, 0, 2, config)
    assert valid.sum() == 10
    assert not valid[: config.audio_left + 6].any()
    assert not window[~valid].any()


def test_phases_hold_after_ten_minutes():
    late = torch.tensor([3750.0, 3750.25], dtype=torch.float64)
    x = torch.randn(1, 1, 32)

    def turn(time):
        a = angles(time, 12, 1e4)
        return rotate(x, (a.cos().float()[None], a.sin().float()[None]))

    near = (turn(torch.tensor(0.0)) * turn(torch.tensor(0.25))).sum()
    far = (turn(late[0]) * turn(late[1])).sum()
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)


def test_the_result_depends_on_time_differences_alone_but_for_the_start():
    config = tiny()
    model = nudged(config)
    outs = []
    for start in (1, 3000):
        given = inputs(config, 1, 4, 4, 4, start)
        with torch.no_grad():
            outs.append(given.through(model))
    torch.testing.assert_close(outs[0].video, outs[1].video, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outs[0].struct, outs[1].struct, atol=1e-4, rtol=1e-4)


# -- checkpointing and compilation -------------------------------------------------------------------------------------


def loss_and_gradients(model, given):
    model.zero_grad()
    out = given.through(model)
    loss = out.video.square().mean() + out.struct.square().mean() + out.flame.square().mean()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kinds", [("selective",), ("full",), ("none", "full", "selective", "none")])
def test_checkpointing_changes_no_bit(kinds, bf16):
    config = tiny()
    model, given = nudged(config).train(), inputs(config, 2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, gradients = loss_and_gradients(model, given)
        model.set_checkpointing(*kinds)
        again, same = loss_and_gradients(model, given)
    assert torch.equal(loss, again)
    for a, b in zip(gradients, same, strict=True):
        # under autocast a weight used twice may be cast twice, and its gradients are then not summed in half precision
        torch.testing.assert_close(a, b, rtol=0.02 if bf16 else 0, atol=0.02 * a.abs().max().item() if bf16 else 0)


def test_compiled_blocks_are_the_same_and_compile_once():
    config = tiny(
        video={"width": 32, "layers": 4, "heads": 2, "ffn": 48, "audio_layers": 2},
        struct={"width": 32, "layers": 4, "heads": 2, "ffn": 48, "audio_layers": 2},
    )
    torch._dynamo.reset()
    model = nudged(config).train()
    shapes = [inputs(config, 2, F, 4, 4, start=1) for F in (2, 3)]
    plain = [loss_and_gradients(model, given) for given in shapes]
    model.compile_blocks(backend="aot_eager")
    for _ in range(2):
        for given, (loss, gradients) in zip(shapes, plain, strict=True):
            again, same = loss_and_gradients(model, given)
            torch.testing.assert_close(again, loss)
            for a, b in zip(same, gradients, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        graphs = counters["stats"]["unique_graphs"]
    for given in shapes:
        loss_and_gradients(model, given)
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def test_misshapen_inputs_are_said():
    config = tiny()
    model, given = nudged(config), inputs(config, 2, 3, 4, 4)
    cases = {
        "latent channels": {"video": given.video[:, :8]},
        "sigma_video": {"sigma_video": given.sigma_video[:, :1]},
        "struct is": {"struct": given.struct[:, :, :3]},
        "reference": {"conditions": replace(given.conditions, reference=given.conditions.reference[..., :2])},
        "audio features": {"conditions": replace(given.conditions, audio=given.conditions.audio[:, 1:])},
        "struct tower": {"struct": None},
        "patches": {
            "video": given.video[..., :3],
            "conditions": replace(given.conditions, reference=given.conditions.reference[..., :3]),
        },
    }
    for said, change in cases.items():
        with pytest.raises(ValueError, match=said):
            given.changed(**change).through(model)


def test_support_cases_are_odd_enough():
    _, config, B, F, H, W = CASES[1]
    assert (B, H == W, math.log2(F).is_integer(), config.text_dim) == (3, False, False, SMALL_TEXT)
