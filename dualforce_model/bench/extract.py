"""Time the extractors with weights on this machine: networks alone, and whole clips from mp4 to safetensors.

Weights are random, saved in the published layouts and loaded as published ones are. `limit` is what the arithmetic
alone allows at 790 TFLOP/s, the rate of a large bf16 matrix product on one H200.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualforce_model import cores
from dualforce_model.bench._machine import median, surroundings, timed
from dualforce_model.features import FEATURES, emoca, hubert, liveportrait
from dualforce_model.features.networks.device import dtype_of, numbers, pick
from dualforce_model.features.struct_latents import StructLatentsConfig
from dualforce_model.features.video_latents import VideoLatentsConfig
from dualforce_model.media import Clip
from dualforce_model.store import write_json, write_tensors

RATE = 790e12  # FLOP/s
FLOPS = {  # of one frame; of one second of sound without context
    "wan_encode": 1.33e12,
    "wan_decode": 2.24e12,
    "liveportrait": 11.7e9,
    "emoca": 16.5e9,
    "hubert": 40e9,
}
GOALS = {
    "wan_encode": 300,
    "wan_decode": 180,
    "liveportrait": 2000,
    "emoca": 2000,
    "hubert": 1000,
    "whole_wan_busy_percent": 90,
    "whole_liveportrait_busy_percent": 90,
}
PARTS = ("wan", "hubert", "liveportrait", "emoca", "whole_wan", "whole_liveportrait")


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, and how large."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=512, help="pixels of the clips")
    parser.add_argument("--chunks", type=int, nargs="+", default=[8], help="latents at a time to try in the VAE")
    parser.add_argument("--batch", type=int, default=128, help="pictures at a time")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--clips", type=int, default=200, help="clips of the whole way")
    parser.add_argument("--frames", type=int, default=125, help="of each of them; 125 are five seconds")
    parser.add_argument("--workers", type=int, help="processes of whole_* (default: as a run has them on an H200)")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--plain", action="store_true", help="don't compile the VAE")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Frames per second (sound: seconds per second) of each part; `holds` when all goals that were measured are met."""
    device = pick()
    out: dict[str, Any] = surroundings(device) | {"size": args.size, "precision": args.precision}
    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as folder:
        os.environ["DUALFORCE_WEIGHTS"] = folder
        for part in args.parts:
            began = time.perf_counter()
            out |= _PARTS[part](args, device, Path(folder))
            out[f"{part}_bench_s"] = round(time.perf_counter() - began, 1)
            print(json.dumps({k: v for k, v in out.items() if k.startswith(part)}), file=sys.stderr, flush=True)
    for name, goal in GOALS.items():
        if name in out:
            if name in FLOPS:
                out[f"{name}_of_limit"] = round(out[name] * FLOPS[name] / RATE, 3)
            out[f"{name}_goal"] = goal
    out["holds"] = all(out[name] >= goal for name, goal in GOALS.items() if name in out)
    return out


def write_random_vae(root: Path, device: torch.device | str = "cpu") -> None:
    """Weights in the place of the published ones, unless they are there."""
    from diffusers import AutoencoderKLWan

    place = root / "wan_vae" / "vae"
    if not place.exists():
        torch.manual_seed(0)
        with torch.device(device):
            random: Any = AutoencoderKLWan()
        random.save_pretrained(place)


def _vae(args: argparse.Namespace, device: torch.device, root: Path) -> Any:
    from dualforce_model.features.networks import wan

    write_random_vae(root, device)
    dtype = dtype_of("float32" if args.precision == "float32" else "bfloat16")
    return wan.load(root / "wan_vae", dtype, device, compiled=device.type == "cuda" and not args.plain)


def _wan(args: argparse.Namespace, device: torch.device, root: Path) -> dict[str, Any]:
    """The steady chunk of both directions; the first chunk's single frame is left out."""
    out: dict[str, Any] = {}
    vae, cells = _vae(args, device, root), args.size // 8
    with numbers("bfloat16"):
        first = torch.randint(0, 256, (1, 3, 1, args.size, args.size), dtype=torch.uint8, device=device)
        start = torch.randn(1, 16, 1, cells, cells, device=device)
        for chunk in args.chunks:
            frames = torch.randint(0, 256, (1, 3, 4 * chunk, args.size, args.size), dtype=torch.uint8, device=device)
            latents = torch.randn(1, 16, chunk, cells, cells, device=device)
            for name, step, opening, steady in (
                ("wan_encode", vae.encode_chunk, first, frames),
                ("wan_decode", vae.decode_chunk, start, latents),
            ):
                _, memory = step(opening, None)
                began = time.perf_counter()
                step(steady, memory)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                compiling = time.perf_counter() - began
                spent = median(timed(lambda s=step, x=steady, m=memory: s(x, m), device, args.repeats, 2))  # type: ignore[misc]
                rate = 4e3 * chunk / spent
                out[f"{name}_chunk{chunk}"] = round(rate, 1)
                out[f"{name}_chunk{chunk}_first_call_s"] = round(compiling, 1)
                out[name] = max(out.get(name, 0.0), round(rate, 1))
    if device.type == "cuda":
        out["wan_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return out


def _hubert(args: argparse.Namespace, device: torch.device, _root: Path) -> dict[str, Any]:
    """Seconds of sound per second, context included in the work, from samples in memory to features in memory."""
    from transformers import HubertConfig as Published
    from transformers import HubertModel

    from dualforce_model.features.networks import hubert as networks

    torch.manual_seed(0)
    large = Published(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        conv_bias=True,
    )
    out: dict[str, Any] = {}
    for batch in (1,) if device.type == "cpu" else (8, 32):
        config = hubert.HubertConfig(precision=args.precision, batch=batch)
        with device:
            model = HubertModel(large)
        network = networks.run(model, config, "random weights")
        seconds = batch * config.block * hubert.HOP / 16000 * (1 if device.type == "cpu" else 10)
        sound = np.random.default_rng(0).standard_normal(int(seconds * 16000)).astype(np.float32)
        hubert.features_of(sound, config, network)
        began = time.perf_counter()
        hubert.features_of(sound, config, network)
        out[f"hubert_batch{batch}"] = round(seconds / (time.perf_counter() - began), 1)
    return out | {"hubert": max(out.values())}


def _liveportrait(args: argparse.Namespace, device: torch.device, root: Path) -> dict[str, Any]:
    from dualforce_model.features.networks.liveportrait import SIZE

    _random_liveportrait(root)
    return _pictures("liveportrait", liveportrait.network(args.precision), SIZE, args, device)


def _random_liveportrait(root: Path) -> None:
    """Weights in the place of the published ones, unless they are there."""
    from dualforce_model.features.networks import liveportrait as networks

    path = root / liveportrait.WEIGHTS / networks.FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(networks.MotionExtractor().state_dict(), path)


def _emoca(args: argparse.Namespace, device: torch.device, root: Path) -> dict[str, Any]:
    from dualforce_model.features.networks import deca

    path = root / "emoca" / "emoca.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"deca.E_flame.": deca.Encoder(), "deca.E_expression.": deca.Encoder(50)}
    torch.save({"state_dict": {p + k: v for p, m in parts.items() for k, v in m.state_dict().items()}}, path)
    return _pictures("emoca", emoca.network("emoca", args.precision), deca.SIZE, args, device)


def _pictures(
    name: str, forward: Callable, size: int, args: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Frames per second from pictures in memory to arrays in memory."""
    pictures = np.random.default_rng(0).integers(0, 256, (args.batch, size, size, 3), dtype=np.uint8)
    for _ in range(3):
        forward(pictures)()
    rounds = 2 if device.type == "cpu" else 5 * args.repeats
    began = time.perf_counter()
    waiting = forward(pictures)
    for _ in range(rounds - 1):
        after = forward(pictures)
        waiting()
        waiting = after
    waiting()
    return {name: round(rounds * args.batch / (time.perf_counter() - began), 1)}


def _whole_wan(args: argparse.Namespace, device: torch.device, root: Path) -> dict[str, Any]:
    write_random_vae(root, device)
    config = VideoLatentsConfig("wan_vae")
    return _whole("whole_wan", "video_latents", config, args.workers or 5, args, device, root)


def _whole_liveportrait(args: argparse.Namespace, device: torch.device, root: Path) -> dict[str, Any]:
    _random_liveportrait(root)
    config = StructLatentsConfig("liveportrait")
    return _whole("whole_liveportrait", "struct_latents", config, args.workers or 12, args, device, root)


def _whole(
    name: str, feature: str, config: Any, count: int, args: argparse.Namespace, device: torch.device, root: Path
) -> dict[str, Any]:
    """mp4 to safetensors over many clips, by processes that share the GPU as in a run, with the backend's own settings.

    Gives the rate, and the share of the time in which the device was at work.
    """
    clips = synthetic_clips(root / "clips", args.clips, args.frames, args.size)
    work = partial(_extracted, feature, config, root / "out" / feature)
    cores.one_each()
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = [stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(count)]
        samples = stack.enter_context(busy(device))
        _dealt(clips[:count], workers, work)  # loading and compiling
        samples.clear()
        began = time.perf_counter()
        _dealt(clips, workers, work)
        spent = time.perf_counter() - began
        share = {f"{name}_busy_percent": round(float(np.mean(samples)), 1)} if samples else {}
    return {name: round(args.clips * args.frames / spent, 1), f"{name}_processes": count} | share


def _dealt(clips: Sequence[Clip], workers: Sequence[Executor], work: Callable[[Clip], None]) -> None:
    """All of it done, by each of the workers in turn."""
    for job in [workers[n % len(workers)].submit(work, clip) for n, clip in enumerate(clips)]:
        job.result()


def _extracted(feature: str, config: Any, folder: Path, clip: Clip) -> None:
    arrays = FEATURES[feature].extract(clip, config)
    write_tensors(folder / f"{clip.clip_id}.safetensors", arrays, {"identity": feature})


@contextmanager
def busy(device: torch.device) -> Iterator[list[float]]:
    """Percent of the time in which the GPU ran a kernel, sampled by its driver; empty on a CPU."""
    samples: list[float] = []
    stop = threading.Event()
    if device.type == "cuda":
        torch.cuda.utilization(device)  # says here, and not in a thread, when the driver cannot be asked

    def look() -> None:
        while not stop.wait(0.1):
            samples.append(float(torch.cuda.utilization(device)))

    thread = threading.Thread(target=look, daemon=True)
    if device.type == "cuda":
        thread.start()
    try:
        yield samples
    finally:
        stop.set()
        if device.type == "cuda":
            thread.join()


def synthetic_clips(folder: Path, count: int, frames: int, size: int) -> list[Clip]:
    """`count` clips of a moving pattern with a face's landmarks in the middle, all copies of one."""
    from dualforce_model.media import write_video

    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:size, :size]
    pictures = (
        np.stack([127 + 90 * np.sin(0.05 * (x + k * t) + 0.03 * y) for k in (1, 2, 3)], -1).astype(np.uint8)
        for t in range(frames)
    )
    write_video(folder / "c0.mp4", pictures, None, 16_000)
    rng = np.random.default_rng(0)
    landmarks = (size * (0.3 + 0.4 * rng.random((1, 478, 3)))).repeat(frames, 0).astype(np.float32)
    clips = [Clip(folder, f"c{number}") for number in range(count)]
    for clip in clips:
        if not clip.video.exists():
            clip.video.hardlink_to(clips[0].video)
        write_tensors(clip.landmarks, {"landmarks": landmarks, "valid": np.ones(frames, bool)}, {"identity": "bench"})
        write_json(clip.sidecar, {"clip_id": clip.clip_id, "frames": frames, "size": size, "source": {"audio": None}})
    return clips


_PARTS: dict[str, Callable[[argparse.Namespace, torch.device, Path], dict[str, Any]]] = {
    "wan": _wan,
    "hubert": _hubert,
    "liveportrait": _liveportrait,
    "emoca": _emoca,
    "whole_wan": _whole_wan,
    "whole_liveportrait": _whole_liveportrait,
}
