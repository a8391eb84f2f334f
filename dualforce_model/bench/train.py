"""Time one training step: forward, backward and optimiser, all parts on, random data, bf16 with fp32 master weights."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.utils import counters

from dualforce_model.bench._machine import compiler_cache, median, surroundings, timed
from dualforce_model.diffusion import Batch, Draw, Recorded, Terms, draw, generator_for, terms_of
from dualforce_model.model import Conditions, DualForce, ModelConfig, preset
from dualforce_model.model.float8 import use_float8
from dualforce_model.model.flops import forward_flops, step_flops
from dualforce_model.timeline import AUDIO_PER_LATENT, SPATIAL, STRIDE

# kernel names to parts of the step, first match wins
PARTS = [
    ("attention", r"cudnn|fmha|flash|sdpa"),
    ("attention merge", r"^_merge"),
    ("norm and rotary of q, k", r"^_(forward|backward)$"),
    ("optimiser", r"[Aa]dam|multi_tensor|foreach|master"),
    ("linear", r"gemm|nvjet|cutlass|cublas|splitK|_mm"),
    ("norms, rotary, gates (fused)", r"^triton_"),
    ("copies", r"[Mm]emcpy|[Mm]emset|copy|CatArray"),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mova_lite")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the preset")
    parser.add_argument("--frames", type=int, default=8, help="latent frames")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--text", type=int, default=64, help="text tokens")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--checkpointing", default="none", choices=["none", "selective", "full"])
    parser.add_argument("--float8", action="store_true", help="8-bit products in the video tower's large layers")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--launch", default="graph", choices=["graph", "kernels"], help="one CUDA graph, or one by one")
    parser.add_argument("--profile", action="store_true", help="share of device time by part, and the longest kernels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def random_batch(config: ModelConfig, frames: int, batch: int, pixels: int, text: int, device: torch.device) -> Batch:
    """A batch of noise, with every condition and every loss mask there."""
    side = pixels // SPATIAL
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    heard = AUDIO_PER_LATENT * (frames - 1) + config.audio_span
    conditions = Conditions(
        text=normal(batch, text, config.text_dim),
        text_mask=torch.ones(batch, text, dtype=torch.bool, device=device),
        audio=normal(batch, heard, config.audio_dim),
        audio_valid=torch.ones(batch, heard, dtype=torch.bool, device=device),
        reference=normal(batch, config.latent_channels, side, side),
    )
    return Batch(
        video=normal(batch, config.latent_channels, frames, side, side),
        struct=None if config.struct is None else normal(batch, frames, STRIDE, config.struct_dim),
        conditions=conditions,
        start=torch.arange(batch, device=device),
        valid=torch.ones(batch, frames, dtype=torch.bool, device=device),
        flame=normal(batch, frames, STRIDE, config.flame_dim),
    )


def nudge(model: DualForce, scale: float = 0.02) -> None:
    """Move every weight off its initial value, so that no gate is shut and nothing is multiplied by zero."""
    generator = torch.Generator(model.video.embed.weight.device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
            parameter.add_(noise.to(parameter.dtype), alpha=scale)


def run(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(args.device)
    config = preset(args.preset, *args.set)
    with device:
        torch.manual_seed(0)
        model = DualForce(config)
    nudge(model)
    model.train().set_checkpointing(args.checkpointing)
    if args.float8:
        use_float8(model)
    if not args.eager:
        model.compile_blocks()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = random_batch(config, args.frames, args.batch, args.pixels, args.text, device)
    generator = generator_for(0, 0, 0, device=device)
    loss = torch.zeros((), device=device)
    began = time.perf_counter()
    graph = device.type == "cuda" and args.launch == "graph"

    def gradients(given: tuple[Batch, Draw]) -> Terms:
        with torch.autocast(device.type, torch.bfloat16):
            terms = terms_of(model, *given)
        terms.total.backward()  # type: ignore[no-untyped-call]
        return terms

    fill = Recorded(model, gradients) if graph else gradients

    def step() -> None:
        nonlocal loss
        loss = fill((batch, draw(batch, generator))).total
        optimiser.step()
        if not graph:
            optimiser.zero_grad(set_to_none=True)

    timed(step, device, 1, args.warmup)
    warm = time.perf_counter() - began
    graphs = counters["stats"]["unique_graphs"]
    milliseconds = timed(step, device, args.steps, 0)
    tokens = (args.pixels // SPATIAL // config.patch) ** 2
    work = step_flops(config, args.frames, args.batch, tokens, args.text)
    result = {
        "preset": args.preset,
        "changes": args.set,
        "frames": args.frames,
        "batch": args.batch,
        "checkpointing": args.checkpointing,
        "float8": args.float8,
        "launch": "graph" if graph else "kernels",
        "parameters": sum(p.numel() for p in model.parameters()),
        "ms_per_step": round(median(milliseconds), 1),
        "ms_range": [round(min(milliseconds), 1), round(max(milliseconds), 1)],
        "tflop_per_step": round(work / 1e12, 1),
        "tflops": round(work / 1e9 / median(milliseconds), 1),
        "tflop_forward_by_part": {
            part: round(flops / 1e12, 2)
            for part, flops in forward_flops(config, args.frames, args.batch, tokens, args.text).items()
        },
        "warmup_s": round(warm, 1),
        "compiler_cache": compiler_cache(),
        "recompilations_after_warmup": counters["stats"]["unique_graphs"] - graphs,
        "loss": round(loss.item(), 4),
        **surroundings(device),
    }
    if device.type == "cuda":
        result["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
        result["reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / 2**30, 1)  # with a graph's own
    if args.profile:
        result |= profiled(step, device)
    return result


def profiled(step: Callable[[], object], device: torch.device, steps: int = 2) -> dict[str, Any]:
    """Milliseconds of device time per step by part, and the longest kernels."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    kernels: dict[str, tuple[float, int]] = {}
    for event in profile.events():
        if event.device_type.name == "CUDA" and not event.is_user_annotation:
            spent, count = kernels.get(event.name, (0.0, 0))
            kernels[event.name] = (spent + event.device_time / 1e3 / steps, count + 1)
    parts: dict[str, float] = {}
    for name, (spent, _) in kernels.items():
        part = next((part for part, pattern in PARTS if re.search(pattern, name)), "other")
        parts[part] = parts.get(part, 0.0) + spent
    longest = sorted(kernels.items(), key=lambda item: -item[1][0])[:70]
    return {
        "device_ms_by_part": {part: round(spent, 2) for part, spent in sorted(parts.items(), key=lambda x: -x[1])},
        "device_ms": round(sum(parts.values()), 1),
        "kernels_per_step": sum(count for _, count in kernels.values()) // steps,
        "kernels": [f"{spent:7.2f} ms {count / steps:5.0f}x {name[:110]}" for name, (spent, count) in longest],
    }
