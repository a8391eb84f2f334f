"""What a pass of a rollout must cost, counted; and whether the fast path draws what the plain one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dualforce_model.bench.verify import apart
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.guidance import Branches
from dualforce_model.generate.rollout import Rollout
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker
from dualforce_model.model import DualForce
from dualforce_model.timeline import STRIDE, sample_of_raw

READ_BYTES_S, FLOP_S = 4.8e12, 790e12  # one H200: memory as specified; large bf16 products as measured on it
TOLERANCE = 2e-2  # ||a - b|| / ||b||, as in `bench verify`: bf16 in another order
# read once per latent or per stream, not in every pass
NOT_IN_A_PASS = ("text.q", "text.norm", "text.kv", "audio.kv", "norm_text", "null", "flame")


def pass_bytes(model: DualForce, cells: int, window: int, rows: int, chunk: int) -> dict[str, int]:
    """Bytes that one pass must read at least in bf16: its weights once, the keys and values of every row once."""
    config = model.config
    N = (cells // config.patch) ** 2
    weights = 2 * sum(p.numel() for name, p in model.named_parameters() if not _outside(name))
    seen = rows * (window + chunk - 1)
    tokens = (seen + rows) * N * config.video.width * config.video.layers  # with the reference
    if config.struct is not None:
        struct, bridges = config.struct, len(config.bridge_layers)
        tokens += seen * config.struct_tokens * struct.width * struct.layers
        tokens += bridges * seen * (N * struct.width + config.struct_tokens * config.video.width)
        tokens += bridges * rows * N * struct.width
    return {"weights": weights, "keys and values": 2 * 2 * tokens}


def _outside(name: str) -> bool:
    tower_level = name.split(".")[1] in ("text", "audio")  # the projections of the conditions
    return tower_level or any(part in name for part in NOT_IN_A_PASS)


def pass_flops(model: DualForce, cells: int, window: int, rows: int, chunk: int) -> float:
    """FLOPs of one pass without text: 2 per multiply-add; each frame of the chunk sees `window` frames and the reference."""
    config = model.config
    N = (cells // config.patch) ** 2
    video, D, frames = config.video, config.video.width, rows * chunk
    span = config.audio_span

    def tower(size: Any, tokens: int, seen: int, ends: int) -> float:
        E = size.width
        linear = 2 * tokens * (4 * E * E + 2 * E * size.ffn) + 4 * tokens * seen * E  # attention: logits and values
        heard = 2 * tokens * 2 * E * E + 4 * tokens * span * E
        level = 2 * (256 * E + 7 * E * E)
        return size.layers * linear + size.audio_layers * heard + 2 * tokens * ends * E + level

    area = config.patch**2
    towers = [video] if config.struct is None else [video, config.struct]
    null = sum(2 * rows * size.layers * size.width**2 for size in towers)  # the text that is not there, once per row
    total = null + frames * tower(video, N, N * (window + 1), (config.video_inputs + config.latent_channels) * area)
    if config.struct is not None:
        struct, M, E = config.struct, config.struct_tokens, config.struct.width
        seen = window + chunk - 1  # of few tokens all are multiplied and some masked
        total += frames * tower(struct, M, M * seen, 2 * config.struct_inputs)
        to_video = 2 * N * 2 * D * D + 2 * M * E * 2 * D + 4 * N * M * seen * D
        to_struct = 2 * M * 2 * E * E + 2 * N * D * 2 * E + 4 * M * N * (seen + 1) * E
        directions = {"struct_to_video": to_video, "video_to_struct": to_struct, "both": to_video + to_struct}
        total += frames * len(config.bridge_layers) * directions[config.bridge.direction]
        if config.flame_dim:
            total += frames * STRIDE * 2 * (2 * config.flame_dim) * (config.struct_dim + config.flame_dim)
    return float(total)


def limits(model: DualForce, config: GenerateConfig, cells: int) -> dict[str, Any]:
    """The least that a latent's passes take on one H200, and the frames per second that would be."""
    rows = Branches.of(config).rows
    window = config.window or 1
    shape = (cells, window, rows, config.chunk)
    read, flops = pass_bytes(model, *shape), pass_flops(model, *shape)
    passes = config.order * config.steps + (0 if config.order == 2 else 1)
    reading, computing = sum(read.values()) / READ_BYTES_S, flops / FLOP_S
    latent = passes * max(reading, computing) / config.chunk
    return {
        "passes per chunk": passes,
        "rows": rows,
        "GB read per pass: weights": _short(read["weights"] / 1e9),
        "GB read per pass: keys and values": _short(read["keys and values"] / 1e9),
        "TFLOP per pass": _short(flops / 1e12),
        "ms to read at 4.8 TB/s": _short(1e3 * reading),
        "ms to compute at 790 TFLOP/s": _short(1e3 * computing),
        "ms per latent": _short(1e3 * latent),
        "frames per second": _short(STRIDE / latent),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


class Launches(TorchDispatchMode):
    """Counts the operations that would each be a kernel, were nothing fused: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        views = any(
            alias.alias_info is not None and not alias.alias_info.is_write for alias in function._schema.returns
        )
        self.count += not views
        return out


def launches(rollout: Rollout) -> dict[str, int]:
    """Operations of one pass, and of a chunk's preparation, run one by one: for a model that is not compiled, on a CPU."""
    found = {}
    cache = rollout.cache
    audio, valid = cache.audio[: len(rollout.seeds)].clone(), cache.audio_valid[: len(rollout.seeds)].clone()
    for name, work in (
        ("sound, times and slots", lambda: rollout.begin(audio, valid)),
        ("pass", lambda: rollout.passes.velocity(*rollout.noise(), rollout.context, rollout.context)),
    ):
        with torch.inference_mode(), Launches() as counted:
            work()
        found[name] = counted.count
    return found


def check(make: Callable[[Any, bool], Talker], config: GenerateConfig, precision: Any, fast: bool) -> dict[str, Any]:
    """Whether what runs fast here draws what runs plainly, and the stream what the whole does."""
    config = replace(config, steps=min(config.steps, 3))
    plain, quick = make("float32", False), make(precision, fast)
    size = quick.size
    face = (np.indices((size, size)).sum(0) % 256).astype(np.uint8)[..., None].repeat(3, 2)
    voice = (0.1 * np.random.default_rng(1).standard_normal(sample_of_raw(40))).astype(np.float32)
    checks: dict[str, bool] = {}
    found: dict[str, Any] = {}

    def velocities(talker: Talker) -> list[Tensor]:
        """One velocity per chunk of the same noisy latents, past the window's edge; the cache is given back."""
        rollout = talker.lend(config, talker.look(face), [0])
        audio = torch.zeros_like(rollout.cache.audio[:1])
        valid, out = torch.ones_like(rollout.cache.audio_valid[:1]), []
        for _ in range(rollout.cache.window // config.chunk + 2):
            rollout.begin(audio, valid)
            given = rollout.noise()
            level = torch.full_like(rollout.context, 0.5)
            out.append(rollout.passes.velocity(*given, level, level)[0].cpu())
            rollout.commit(given[0] * 0.5, None if given[1] is None else given[1] * 0.5)
        talker.take_back(rollout)
        return out

    exact, here = velocities(plain), velocities(quick)
    found["fast against plain float32, worst chunk"] = error = max(map(apart, here, exact))
    checks["the fast pass is right, from the first frame past eviction"] = error < TOLERANCE
    checks["the same again, to the bit"] = all(map(torch.equal, velocities(quick), here))
    quick.prepare(config)
    checks["a prepared cache, used before, changes nothing, to the bit"] = all(
        torch.equal(a, b) for _ in range(2) for a, b in zip(velocities(quick), here, strict=True)
    )

    def frames(pieces: int) -> np.ndarray:
        with Stream(quick, face, config) as stream:
            got = [frame for piece in np.array_split(voice, pieces) for frame in stream.push(piece)]
            return np.stack([*got, *stream.finish()])

    whole = frames(1)
    checks["streamed is offline, to the bit"] = all(np.array_equal(frames(n), whole) for n in (7, 40))
    return {**found, "frames": len(whole), "checks": checks, "holds": all(checks.values())}
