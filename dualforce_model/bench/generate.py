"""Time streaming generation, stage by stage and as a stream, with random weights; or check the fast path (--check).

`limit` is what the arithmetic and the memory of the pass allow at the rates of one H200: see docs/generation.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualforce_model import config as strict
from dualforce_model.bench._generate import check, launches, limits
from dualforce_model.bench._machine import surroundings
from dualforce_model.bench.extract import write_random_vae
from dualforce_model.bench.train import nudge, profiled
from dualforce_model.bench.verify import sharpen
from dualforce_model.features import FEATURES, audio_features, struct_latents, wan_vae
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.stream import Stream
from dualforce_model.generate.talker import Talker, ready
from dualforce_model.model import DualForce, preset
from dualforce_model.timeline import FPS, SPATIAL, raw_range, sample_of_raw

MINUTE_10, SECOND_5 = 3750, 31  # latents


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mova_lite")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the model")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--order", type=int, default=1, choices=(1, 2))
    parser.add_argument("--guidance-audio", type=float, default=1.0, help="1: off")
    parser.add_argument("--guidance-reference", type=float, default=1.0)
    parser.add_argument("--window", type=int, default=8, help="latents that a latent sees, itself included")
    parser.add_argument("--chunk", type=int, default=1, help="latents denoised together")
    parser.add_argument("--decoder", default="block_dct", choices=("block_dct", "wan_vae"))
    parser.add_argument("--frames", type=int, default=201, help="frames of video to time, 25 per second")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, default=GenerateConfig.threads, help="of the processor")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--profile", action="store_true", help="device time of a pass by part, and the longest kernels")
    parser.add_argument("--check", action="store_true", help="check the fast path instead of timing it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Figures in milliseconds, unless their name says otherwise; with --check, what holds."""
    device = torch.device(args.device)
    fast = device.type == "cuda" and not args.eager
    precision = args.precision or ("bfloat16" if device.type == "cuda" else "float32")
    config = GenerateConfig(
        steps=args.steps,
        order=args.order,
        chunk=args.chunk,
        guidance_audio=args.guidance_audio,
        guidance_reference=args.guidance_reference,
        window=args.window,
        threads=args.threads,
    )
    torch.set_num_threads(config.threads)  # as `dualforce generate` does
    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as folder, random_vae(args.decoder, Path(folder)):
        made = surroundings(device) | {"preset": args.preset, "precision": precision, "compiled": fast}
        if args.check:
            return made | check(lambda p, c: talker_of(args, device, p, c), config, precision, fast)
        talker = talker_of(args, device, precision, fast)
        made |= {"limit": limits(talker.model, config, talker.cells)}
        if device.type == "cpu" and not fast:
            face = torch.zeros(1, talker.model.config.latent_channels, talker.cells, talker.cells)
            made |= {"operations one by one": launches(talker.lend(config, face, [0]))}
        made |= measured(talker, config, args.frames)
        return made | (pass_profile(talker, config) if args.profile else {})


def talker_of(args: argparse.Namespace, device: torch.device, precision: Any, compiled: bool) -> Talker:
    """A talker of random weights, every one off zero, that hears log-mel features and paints by the chosen decoder."""
    hears, size = audio_features.AudioFeaturesConfig(), args.pixels
    audio = audio_features.width_of(hears)
    model_config = preset(args.preset, *args.set, audio_dim=audio)
    torch.manual_seed(0)
    with device:
        model = DualForce(model_config).eval()
    nudge(model)
    sharpen(model)  # so that a wrong key or value shows
    ready(model, precision, compiled)
    made_by = {name: {"config": strict.to_dict(FEATURES[name].config())} for name in FEATURES}
    made_by["video_latents"]["config"]["backend"] = args.decoder
    dims = {"audio": audio, "struct": struct_latents.DIM}
    stats = {name: {"mean": [0.0] * dim, "std": [1.0] * dim} for name, dim in dims.items()}
    card = {"features": made_by, "stats": stats, "size": size, "latent_size": size // SPATIAL}
    return Talker(model, card, args.window, 1.0, device)


@contextmanager
def random_vae(decoder: str, folder: Path) -> Iterator[None]:
    """Random weights in the place of the published ones, for the time of a measurement."""
    if decoder != "wan_vae":
        yield
        return
    write_random_vae(folder)
    before = os.environ.get("DUALFORCE_WEIGHTS")
    os.environ["DUALFORCE_WEIGHTS"] = str(folder)
    wan_vae.load.cache_clear()
    try:
        yield
    finally:
        wan_vae.load.cache_clear()
        os.environ.pop("DUALFORCE_WEIGHTS")
        if before is not None:
            os.environ["DUALFORCE_WEIGHTS"] = before


def measured(talker: Talker, config: GenerateConfig, frames: int) -> dict[str, Any]:
    """As a stream first, then its stages one by one, each waited for."""
    if talker.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(talker.device)
    began = time.perf_counter()
    talker.prepare(config)
    prepared = time.perf_counter() - began
    face = np.random.default_rng(0).integers(0, 256, (talker.size, talker.size, 3), np.uint8)
    voice = (0.1 * np.random.default_rng(1).standard_normal(sample_of_raw(frames + 8))).astype(np.float32)
    _stream(talker, config, face, voice[: sample_of_raw(20)], 9)  # the decoder is compiled and tuned here
    result = {"prepare_s": round(prepared, 2), **_stream(talker, config, face, voice, frames)}
    result["stages"] = _stages(talker, config, face, voice)
    if talker.device.type == "cuda":
        result["peak_gib"] = round(torch.cuda.max_memory_allocated(talker.device) / 2**30, 2)
    else:
        result["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return result


def _stream(talker: Talker, config: GenerateConfig, face: np.ndarray, voice: np.ndarray, frames: int) -> dict[str, Any]:
    """All of the sound at once, as a stream: how soon the first frame comes, and how fast the others follow."""
    began = time.perf_counter()
    with Stream(talker, face, config) as stream:
        arrivals = []
        for _ in stream.push(voice):
            arrivals.append(time.perf_counter())
            if len(arrivals) == frames:
                break
    spent = arrivals[-1] - arrivals[0]
    # a frame's share of its latent: the frames of one latent come at once
    whole = [at for n, at in enumerate(arrivals) if n % 4 == 1]
    each = sorted(1e3 * (b - a) / 4 for a, b in itertools.pairwise(whole)) or [1e3 * spent]
    return {
        "frames": len(arrivals),
        "first_frame_s": round(arrivals[0] - began, 4),
        "declared_lookahead_s": round(stream.latency_s, 4),
        "frames_per_s": round((len(arrivals) - 1) / spent, 2) if spent else None,
        "frame_p50_ms": round(statistics.median(each), 3),
        "frame_p95_ms": round(each[min(len(each) - 1, round(0.95 * len(each)))], 3),
        "real_time": bool(spent) and (len(arrivals) - 1) / spent >= FPS,
    }


def pass_profile(talker: Talker, config: GenerateConfig) -> dict[str, Any]:
    """Where one pass of a full window spends its time on the device."""
    face = torch.zeros(1, talker.model.config.latent_channels, talker.cells, talker.cells, device=talker.device)
    rollout = talker.lend(config, face, [0])
    audio, valid = rollout.cache.audio[:1].clone(), torch.ones_like(rollout.cache.audio_valid[:1])
    for _ in range(rollout.cache.window):
        rollout.draw(audio, valid)
    rollout.begin(audio, valid)
    given = rollout.noise()
    result = profiled(lambda: rollout.passes.velocity(*given, rollout.context, rollout.context), talker.device, 5)
    talker.take_back(rollout)
    return result


def _stages(talker: Talker, config: GenerateConfig, face: np.ndarray, voice: np.ndarray) -> dict[str, Any]:
    """Milliseconds of each stage of one chunk, at second 5 and at minute 10 of a rollout whose window is full."""
    spent: dict[str, list[float]] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        _wait(talker.device)
        began = time.perf_counter()
        found = work()
        _wait(talker.device)
        spent.setdefault(name, []).append(1e3 * (time.perf_counter() - began))
        return found

    references = stage("look at the picture", lambda: talker.look(face))
    rollout = stage("begin (prepared)", lambda: talker.lend(config, references, [0]))
    ear, painter = talker.ear(), talker.painter()
    step = config.chunk * sample_of_raw(len(raw_range(1)))
    audio, valid = rollout.cache.audio[:1].clone(), torch.ones_like(rollout.cache.audio_valid[:1])
    index = 0

    def chunk(where: str | None) -> None:
        nonlocal index
        time_it = stage if where else lambda _, work: work()
        time_it("ear", lambda: ear.push(voice[:step]))
        began = time.perf_counter()
        time_it("sound, times and slots", lambda: rollout.begin(audio, valid))
        video, struct = time_it("denoising", rollout.denoise)
        time_it("remembering", lambda: rollout.commit(video, struct))
        if where:
            _wait(talker.device)
            spent.setdefault(where, []).append(1e3 * (time.perf_counter() - began))
        for c in range(config.chunk):
            at = index + c
            time_it("decoding", lambda: painter.start(video[0, :, c], at).result())  # noqa: B023
        index += config.chunk

    for _ in range(rollout.cache.window + 2):
        chunk(None)
    for where, latent in (("second 5", SECOND_5), ("minute 10", MINUTE_10)):
        rollout.cache.start = latent - rollout.cache.frame  # times are absolute: this is that instant
        for _ in range(5):
            chunk(where)
    painter.close()
    rollout.cache.start = 0
    medians = {name: round(statistics.median(values), 3) for name, values in spent.items()}
    medians["minute 10 over second 5"] = round(medians["minute 10"] / medians["second 5"], 3)
    return medians


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
