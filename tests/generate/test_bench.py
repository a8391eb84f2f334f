"""The benchmark of generation: its counts are right, it runs on a CPU, and its check of the fast path can fail."""

from __future__ import annotations

import argparse
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dualforce_model.bench import _generate
from dualforce_model.bench.__main__ import main
from dualforce_model.bench.generate import talker_of
from dualforce_model.generate import GenerateConfig
from dualforce_model.generate.rollout import Rollout
from dualforce_model.model import DualForce, preset
from tests.model.support import nudged, odd, tiny

QUICK = ["generate", "--preset", "tiny", "--pixels", "32", "--steps", "1", "--window", "3", "--json"]


@pytest.mark.parametrize("shape", [tiny(), odd()], ids=["tiny", "odd"])
@pytest.mark.parametrize(("rows", "chunk"), [(1, 1), (2, 1), (1, 3)])
def test_the_arithmetic_of_a_pass_is_what_torch_counts(shape, rows, chunk):
    model, window = nudged(shape), 3
    config = GenerateConfig(chunk=chunk, guidance_audio=float(rows))
    rollout = Rollout(model, config, window, 1.0, torch.zeros(1, 16, 8, 8), [0])
    audio, valid = torch.zeros_like(rollout.cache.audio[:1]), rollout.cache.audio_valid[:1]
    while rollout.cache.frame < window:
        rollout.draw(audio, valid)
    rollout.begin(audio, valid)
    with FlopCounterMode(display=False) as counter:
        rollout.passes.velocity(*rollout.noise(), rollout.context, rollout.context)
    # torch does not count the CPU's fused attention: 4 x queries x keys x width in each layer of the video tower
    fused = shape.video.layers * 4 * 16 * 16 * (window + 1) * shape.video.width * rows * chunk
    assert counter.get_total_flops() + fused == _generate.pass_flops(model, 8, window, rows, chunk)


def test_the_bytes_of_a_pass_are_its_weights_and_what_it_remembers():
    config = tiny()
    with torch.device("meta"):
        model = DualForce(config)
    read = _generate.pass_bytes(model, 8, 3, 2, 1)
    whole = sum(p.numel() for p in model.parameters())
    unread = sum(p.numel() for tower in (model.video, model.struct) for part in (tower.text, tower.audio)
                 for p in part.parameters())  # fmt: skip
    assert 0.7 * (whole - unread) < read["weights"] / 2 < whole - unread
    assert _generate.pass_bytes(model, 8, 3, 4, 1)["keys and values"] == 2 * read["keys and values"]
    assert _generate.pass_bytes(model, 8, 3, 4, 1)["weights"] == read["weights"]


def test_the_mission_preset_has_a_limit_above_its_goals():
    """One H200: at least 25 frames/s at 10 guided steps and 100 at 4 steps must be possible at all."""
    with torch.device("meta"):
        model = DualForce(preset("mova_lite"))
    guided = _generate.limits(model, GenerateConfig(steps=10, guidance_audio=3.0, window=8), 64)
    quick = _generate.limits(model, GenerateConfig(steps=4, window=8), 64)
    assert guided["frames per second"] > 25
    assert quick["frames per second"] > 100
    assert (guided["passes per chunk"], guided["rows"]) == (11, 2)
    assert (quick["passes per chunk"], quick["rows"]) == (5, 1)


def test_it_prints_every_stage(capsys):
    assert main([*QUICK, "--frames", "9", "--guidance-audio", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == 9
    assert found["limit"]["rows"] == 2
    stages = {"ear", "sound, times and slots", "denoising", "remembering", "decoding", "second 5", "minute 10"}
    assert stages < found["stages"].keys()
    assert all(value > 0 for value in found["stages"].values())
    for figure in ("first_frame_s", "frame_p50_ms", "frame_p95_ms", "frames_per_s", "peak_gib", "prepare_s"):
        assert found[figure] >= 0
    assert found["operations one by one"]["pass"] > 100


def test_its_check_holds_here(capsys):
    assert main([*QUICK, "--check"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["checks"]) == 4


def test_its_check_fails_when_the_fast_path_is_wrong():
    args = argparse.Namespace(preset="tiny", set=[], pixels=32, window=3, decoder="block_dct")
    right, wrong = (talker_of(args, torch.device("cpu"), "float32", False) for _ in range(2))
    with torch.no_grad():
        wrong.model.video.blocks[1].attention.out.weight.mul_(-1)
    config = GenerateConfig(steps=1, window=3)
    found = _generate.check(lambda precision, _: right if precision == "float32" else wrong, config, "bfloat16", True)
    assert [name for name, holds in found["checks"].items() if not holds] == [
        "the fast pass is right, from the first frame past eviction"
    ]
    assert not found["holds"]
