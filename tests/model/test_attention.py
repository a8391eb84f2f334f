"""The triangle of dense calls, the merge of its parts, and the counting of arithmetic."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dualforce_model.bench.__main__ import main, subcommands
from dualforce_model.model import float8
from dualforce_model.model.attention import Sink, frame_by_frame_attention, thin_attention
from dualforce_model.model.duo import frames_seen
from dualforce_model.model.float8 import use_float8
from dualforce_model.model.flops import forward_flops
from dualforce_model.model.triangle import cut, triangle_attention
from tests.model.support import inputs, nudged, tiny


@pytest.mark.parametrize("window", [None, 1, 3, 40])
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8, 13, 21, 33])
def test_the_pieces_cover_the_triangle_once(frames, window):
    covered = torch.zeros(frames, frames, dtype=torch.int)
    for piece in cut(frames, window):
        for run in range(piece.groups):
            q, k = piece.q + run * piece.stride, piece.k + run * piece.stride
            covered[q : q + piece.queries, k : k + piece.keys] += 1
        # the kernel finds a frame's run by dividing by the stride, so no run may be longer than that
        assert max(piece.queries, piece.keys) <= piece.stride
    assert torch.equal(covered, frames_seen(frames, window, torch.device("cpu")).int())


@pytest.mark.parametrize(("frames", "window"), [(1, None), (2, None), (5, None), (8, None), (13, None), (7, 3)])
def test_the_triangle_is_attention_frame_by_frame(frames, window):
    torch.manual_seed(frames)
    shapes = [(2, frames, 6, 2, 8)] * 4 + [(2, 6, 2, 8)] * 2
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    exact = frame_by_frame_attention(*given[:3], Sink(*given[3:]), window)
    found = triangle_attention(*given, window)
    torch.testing.assert_close(found, exact, atol=2e-6, rtol=1e-5)
    grad = torch.randn_like(exact)
    for a, b in zip(torch.autograd.grad(found, given, grad), torch.autograd.grad(exact, given, grad), strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=1e-5)


def test_frame_by_frame_is_a_block_mask():
    torch.manual_seed(0)
    q, k, v, still = (torch.randn(2, 5, 4, 2, 8) for _ in range(4))
    sink = Sink(still, torch.randn(2, 4, 2, 8), torch.randn(2, 4, 2, 8))
    for window in (None, 2):
        mask = frames_seen(5, window, q.device)[None, :, :, None].expand(1, 5, 5, 4)
        masked = thin_attention(q, k, v, mask, sink)
        torch.testing.assert_close(frame_by_frame_attention(q, k, v, sink, window), masked, atol=2e-6, rtol=1e-5)


def test_the_arithmetic_is_counted_right():
    config = tiny("bridge.strategy=none", flame_dim=0)
    B, F, H, W, S = 2, 4, 8, 12, 5
    model, given = nudged(config), inputs(config, B, F, H, W, text=S)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        given.through(model)
    counted = sum(forward_flops(config, F, B, H * W // 4, S).values())
    # run, but not counted: masked struct keys (4F against those seen); 0.2 % here
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_arithmetic_grows_as_it_should():
    config = tiny()
    work = [sum(forward_flops(config, F, 1, 64, 8).values()) for F in (4, 8, 16)]
    assert all(b > 2 * a for a, b in itertools.pairwise(work[1:]))
    attention = [forward_flops(config, F, 1, 64, 8)["video attention"] for F in (4, 8)]
    assert attention[1] / attention[0] == (36 + 8) / (10 + 4)


@pytest.mark.parametrize("kind", [float8.VALUE, float8.GRADIENT])
def test_8_bit_values_are_there_both_ways_round(kind):
    x = torch.randn(32, 48, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    rows, turned, unit = float8.cast(x, kind)
    assert torch.equal(turned.float(), rows.float().t())
    assert turned.is_contiguous()
    assert rows.float().abs().max() == torch.finfo(kind).max  # the whole range is used
    bits = {float8.VALUE: 3, float8.GRADIENT: 2}[kind]
    large = x.abs() > 0.01  # smaller ones have fewer bits
    torch.testing.assert_close((rows.float() * unit)[large], x.float()[large], rtol=2.0 ** -(bits + 1), atol=0)
    nothing, _, unit = float8.cast(torch.zeros(16, 16), kind)
    assert not nothing.float().any()
    assert unit > 0


def test_8_bit_layers_are_near_and_keep_their_weights():
    config = tiny()
    model, given = nudged(config).train(), inputs(config, 2, 2, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    exact = given.through(model)
    assert use_float8(model) == 2 * 6  # six large layers in each video block
    near = given.through(model)
    error = (near.video - exact.video).norm() / exact.video.norm()
    assert 0 < error < 0.1
    near.video.square().mean().backward()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is not None and p.grad.any() for p in model.video.blocks[0].ffn_in.parameters())


def test_benchmarks_run_here(capsys):
    assert {"train", "verify", "attention"} <= set(subcommands())
    small = ["--preset", "tiny", "--set", "text_dim=8", "audio_dim=8", "--pixels", "64", "--frames", "2", "--text", "3"]
    assert main(["train", *small, "--eager", "--steps", "1", "--warmup", "0", "--device", "cpu", "--json"]) == 0
    assert '"ms_per_step"' in capsys.readouterr().out
    assert main(["verify", "--preset", "tiny", "--pixels", "32", "--eager", "--steps", "1", "--device", "cpu"]) == 0
