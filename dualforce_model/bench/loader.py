"""Windows per second that the training loader gives, per worker process, against what a training step eats."""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dualforce_model.bench._machine import surroundings
from dualforce_model.configs.shape import preset
from dualforce_model.data import Clip, Dataset
from dualforce_model.store import write_tensors
from dualforce_model.timeline import SPATIAL, audio_count, raw_count
from dualforce_model.train.batches import loader
from dualforce_model.train.config import TrainConfig

STEP_S, STEP_WINDOWS = 0.304, 2  # mova_lite on one H200, B=2, F=8 (docs/benchmarks.md)
WANTED = 10.0  # times what the model eats
FEATURES = ("video_latents", "struct_latents", "flame", "audio_features", "reference")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--frames", type=int, default=8, help="latents per window")
    parser.add_argument("--batch", type=int, default=2, help="windows per batch")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--audio", type=int, default=1024, help="numbers per audio feature (1024: HuBERT-Large)")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--latents", type=int, default=63, help="of each clip; 63 are 10 s")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="loader processes, one run for each")
    parser.add_argument("--seconds", type=float, default=8.0, help="per run")
    parser.add_argument("--folder", type=Path, help="where the clips are written (default: a temporary folder)")


def made_up(folder: Path, args: argparse.Namespace) -> Dataset:
    """Clips of noise, stored as the extractors store them."""
    draw = np.random.default_rng(0)
    cells, frames = args.pixels // SPATIAL, raw_count(args.latents)
    widths = {"struct": 72, "flame": 159, "audio": args.audio}
    arrays: dict[str, dict[str, np.ndarray]] = {
        "video_latents": {"latents": draw.normal(size=(16, args.latents, cells, cells)).astype(np.float16)},
        "struct_latents": {"struct": _rows(draw, frames, 72), "valid": np.ones(frames, bool)},
        "flame": {"flame": _rows(draw, frames, 159), "valid": np.ones((frames, 159), bool)},
        "audio_features": {"audio": _rows(draw, audio_count(frames), args.audio)},
        "reference": {"latents": draw.normal(size=(4, 16, cells, cells)).astype(np.float16)},
    }
    made_by = {name: {"backend": "made_up", "version": "1", "config": {}} for name in FEATURES}
    clips = []
    for n in range(args.clips):
        files = {name: folder / name / f"{n}.safetensors" for name in FEATURES}
        for name, path in files.items():
            write_tensors(path, arrays[name], {"identity": f"{name}-{n}", **made_by[name]})
        clips.append(Clip(str(n), frames, args.latents, files))
    stats = {name: {"mean": [0.0] * w, "std": [1.0] * w, "count": [1] * w} for name, w in widths.items()}
    card: Mapping[str, Any] = {"size": args.pixels, "features": made_by, "stats": stats, "audio_dim": args.audio}
    return Dataset({"train": tuple(clips), "val": (), "test": ()}, card)


def _rows(draw: np.random.Generator, count: int, width: int) -> np.ndarray:
    return draw.normal(size=(count, width)).astype(np.float32)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Loader figures; `holds` says whether one worker process reaches what is wanted of the whole loader."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dualforce-loader-") as temporary:
        dataset = made_up(args.folder or Path(temporary), args)
        measured = {str(workers): _windows_per_second(dataset, args, workers) for workers in args.workers}
        windows_mib = _window_bytes(args) / 2**20
    eaten = STEP_WINDOWS / STEP_S
    best = max(found["windows_per_s"] for found in measured.values())
    return {
        "frames": args.frames,
        "pixels": args.pixels,
        "stored_mib_per_window": round(windows_mib, 2),
        "by_workers": measured,
        "eaten_windows_per_s": round(eaten, 1),
        "times_what_the_model_eats": round(best / eaten, 1),
        "wanted": WANTED,
        "holds": best / eaten >= WANTED,
        **surroundings(torch.device("cpu")),
    }


def _window_bytes(args: argparse.Namespace) -> int:
    """Bytes of stored features that a window is made of."""
    cells, frames = args.pixels // SPATIAL, 4 * args.frames
    latents = 2 * 16 * (args.frames + 1) * cells * cells
    return latents + 4 * (frames * (72 + 159) + 2 * frames * args.audio) + frames * 160


def _windows_per_second(dataset: Dataset, args: argparse.Namespace, workers: int) -> dict[str, float]:
    config = TrainConfig(frames=args.frames, batch=args.batch, workers=workers)
    shape = preset("mova_lite", audio_dim=args.audio)
    batches = iter(loader(dataset, config, shape, range(1 << 30)))
    warm = max(4, 8 * workers)
    for _ in itertools.islice(batches, warm):
        pass
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < args.seconds:
        count += len(next(batches)["clip_id"])
    spent = time.perf_counter() - began
    return {
        "windows_per_s": round(count / spent, 1),
        "ms_per_window_of_this_process": round(1e3 * (time.process_time() - cpu) / count, 2),
    }
