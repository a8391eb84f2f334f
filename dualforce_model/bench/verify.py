"""Check here that the fast path computes what was proved: causal to the bit, cached as uncached, right gradients.

Half-precision results differ by rounding alone: two bf16 evaluations in another order part by a few 2^-8 relative at
each layer. So bf16 results are compared by norm against fp32 run uncompiled, and held to `TOLERANCE`; what must not
depend on the future is compared bit by bit, in any precision.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from dualforce_model.bench._machine import surroundings
from dualforce_model.bench.train import nudge, random_batch
from dualforce_model.diffusion import Batch
from dualforce_model.model import DualForce, ModelConfig, Velocity, preset
from dualforce_model.model.attention import Sink, frame_by_frame_attention
from dualforce_model.model.float8 import use_float8
from dualforce_model.model.triangle import triangle_attention

TOLERANCE = 2e-2  # ||a - b|| / ||b||: some 5 bf16 roundings (2^-8) in a row


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mova_lite")
    parser.add_argument("--layers", type=int, default=2, help="blocks per tower, so that it takes a minute")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--window", type=int, default=2, help="frames seen in the run with eviction")
    parser.add_argument("--steps", type=int, default=60, help="training steps of the comparison of 8-bit layers")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def apart(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def window_pass(model: DualForce, batch: Batch, sigma: Tensor) -> Velocity:
    return model(batch.video, batch.struct, sigma, sigma.flip(1), batch.conditions, batch.start)


def rollout(model: DualForce, batch: Batch, sigma: Tensor, window: int) -> Velocity:
    """The same frames, one at a time through the cache."""
    assert batch.struct is not None
    assert batch.conditions.audio is not None
    size = tuple(batch.video.shape[-2:])
    cache = model.new_cache(batch.conditions, (size[0], size[1]), len(batch.video), window)
    outs = []
    for f in range(batch.video.shape[2]):
        model.begin_frame(cache, batch.conditions.audio[:, 8 * f : 8 * f + model.config.audio_span])
        video, struct = batch.video[:, :, f : f + 1], batch.struct[:, f : f + 1]
        level = sigma[:, f : f + 1], sigma.flip(1)[:, f : f + 1]
        model.denoise_frame(cache, video + 1, struct - 1, *level)  # must leave no trace
        outs.append(model.denoise_frame(cache, video, struct, *level))
        model.advance(cache)
    struct = torch.cat([out.struct for out in outs if out.struct is not None], 1)
    return Velocity(torch.cat([out.video for out in outs], 2), struct)


def run(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(args.device)
    layers = [f"{tower}.{key}={args.layers}" for tower in ("video", "struct") for key in ("layers", "audio_layers")]
    config = preset(args.preset, *layers)
    half = torch.bfloat16 if device.type == "cuda" else torch.float32
    batch = random_batch(config, args.frames, 2, args.pixels, 16, device)
    batch = replace(batch, start=torch.zeros_like(batch.start))
    sigma = torch.linspace(0.1, 0.9, 2 * args.frames, device=device).reshape(2, -1)

    def build(config: ModelConfig) -> tuple[DualForce, DualForce]:
        """In fp32, uncompiled; and as it runs fast."""
        with device:
            torch.manual_seed(0)
            plain = DualForce(config).eval()
            nudge(plain)
            sharpen(plain)
            fast = DualForce(config).eval()
        fast.load_state_dict(plain.state_dict())
        fast.to(half)
        if not args.eager:
            fast.compile_blocks()
        return plain, fast

    found: dict[str, Any] = {"precision": str(half), **surroundings(device)}
    checks: dict[str, bool] = {}
    plain, fast = build(config)
    with torch.no_grad():
        exact, quick = window_pass(plain, batch, sigma), window_pass(fast, batch, sigma)
        found["window pass against fp32"] = error = worst(quick, exact)
        checks["the compiled window pass is right"] = error < TOLERANCE
        graphs = counters["stats"]["unique_graphs"]
        checks["no frame hears the future (bit for bit)"] = all(
            unmoved(fast, batch, sigma, k, quick) for k in range(1, args.frames)
        )
        checks["no recompilation after the first pass"] = graphs == counters["stats"]["unique_graphs"]
        # one model with a window serves for both: the cache against uncached, and eviction
        narrow, narrow_fast = build(replace(config, window=args.window))
        windowed = window_pass(narrow, batch, sigma)
        evicted = rollout(narrow_fast, batch, sigma, args.window)
        found["cached rollout with eviction against an explicit window, fp32"] = error = worst(evicted, windowed)
        found["how far the window moves the result"] = moved = worst(windowed, exact)
        checks["the cached rollout is the window pass, evicted frames and all"] = error < min(TOLERANCE, moved / 3)
    found["8-bit linear layers"] = quality = float8_quality(config, batch, sigma, device, args.steps)
    checks["8-bit gradients point where bf16 ones do"] = quality["gradient cosine, bf16 to 8-bit"] > 0.97
    for frames, window in ((1, None), (5, None), (8, None), (21, None), (8, 3)):
        error = attention_error(frames, window, device, half)
        found[f"attention and its gradients, F={frames}, window {window}"] = error
        checks[f"attention is right, F={frames}, window {window}"] = error < TOLERANCE
    return {**found, "checks": checks, "holds": all(checks.values())}


def sharpen(model: DualForce) -> None:
    """Open the gates of self-attention and make it choosy, so that what is seen shows in the result."""
    for tower in (model.video, model.struct):
        for block in [] if tower is None else tower.layers():
            block.modulation.data[2] += 1
            block.attention.norm_q.weight.data *= 4


def worst(a: Velocity, b: Velocity) -> float:
    """The larger of the two streams' relative errors."""
    assert a.struct is not None
    assert b.struct is not None
    return max(apart(a.video, b.video), apart(a.struct, b.struct))


def float8_quality(
    config: ModelConfig, batch: Batch, sigma: Tensor, device: torch.device, steps: int
) -> dict[str, float]:
    """How the gradient of a step, and the loss after some steps on one batch, differ: bf16 and 8-bit products."""
    gradients, ends = [], []
    for float8 in (False, True):
        with device:
            torch.manual_seed(0)
            model = DualForce(config).train()
        nudge(model)
        if float8:
            use_float8(model)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
        losses = []
        for step in range(steps):
            with torch.autocast(device.type, torch.bfloat16):
                out = window_pass(model, batch, sigma)
            assert out.struct is not None
            assert batch.struct is not None
            loss = (out.video - batch.video).square().mean() + (out.struct - batch.struct).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if step == 0:
                kept = [
                    p.grad.flatten() for n, p in model.video.named_parameters() if p.grad is not None and "ffn" in n
                ]
                gradients.append(torch.cat(kept))
            optimiser.step()
            losses.append(loss.item())
        ends.append(sum(losses[-5:]) / 5)
        first = losses[0]
    cosine = torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0).item()
    return {
        "gradient cosine, bf16 to 8-bit": round(cosine, 5),
        "first loss": round(first, 4),
        f"loss after {steps} steps, bf16": round(ends[0], 4),
        f"loss after {steps} steps, 8-bit": round(ends[1], 4),
    }


def unmoved(model: DualForce, batch: Batch, sigma: Tensor, k: int, before: Velocity) -> bool:
    """Whether frames before k are the same to the bit after frame k and all later change, and frame k itself moves."""
    assert batch.struct is not None
    assert batch.conditions.audio is not None
    assert before.struct is not None
    video, struct, audio, level = (x.clone() for x in (batch.video, batch.struct, batch.conditions.audio, sigma))
    video[:, :, k:] += 1
    struct[:, k:] -= 1
    audio[:, 8 * (k - 1) + model.config.audio_span :] += 1  # all that frame k-1 does not hear
    level[:, k:] = 0.5
    struct_level = sigma.flip(1).clone()
    struct_level[:, k:] = 0.5
    changed = replace(batch.conditions, audio=audio)
    after = model(video, struct, level, struct_level, changed, batch.start)
    same = torch.equal(after.video[:, :, :k], before.video[:, :, :k])
    same_struct = torch.equal(after.struct[:, :k], before.struct[:, :k])
    return same and same_struct and not torch.equal(after.video[:, :, k], before.video[:, :, k])


def attention_error(frames: int, window: int | None, device: torch.device, dtype: torch.dtype) -> float:
    """Largest relative error of the triangle's output and six gradients against fp32, frame by frame."""
    generator = torch.Generator(device).manual_seed(frames)
    shapes = [(2, frames, 256, 4, 128)] * 4 + [(2, 256, 4, 128)] * 2
    given = [torch.randn(s, generator=generator, device=device).to(dtype).requires_grad_() for s in shapes]
    wide = [x.detach().float().requires_grad_() for x in given]
    q, k, v, still, sink_k, sink_v = given
    out = triangle_attention(q, k, v, still, sink_k, sink_v, window)
    q, k, v, still, sink_k, sink_v = wide
    exact = frame_by_frame_attention(q, k, v, Sink(still, sink_k, sink_v), window)
    grad = torch.randn(out.shape, generator=generator, device=device).to(dtype)
    found = torch.autograd.grad(out, given, grad)
    right = torch.autograd.grad(exact, wide, grad.float())
    return max(itertools.starmap(apart, zip((out, *found), (exact, *right), strict=True)))
