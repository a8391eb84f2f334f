"""Time training on several processes: FSDP2 on one and on all, shared long windows, checkpoints, resuming."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch

from dualforce_model.bench._spread import MARK


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="mova_lite")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the preset")
    parser.add_argument("--processes", type=int, default=max(2, torch.cuda.device_count()))
    parser.add_argument("--frames", type=int, default=8, help="latents of a process's own windows; 0: none")
    parser.add_argument("--batch", type=int, default=4, help="such windows per process (mova_lite.yaml on 8: 4)")
    parser.add_argument("--long", type=int, default=33, help="latents of the one window that all share; 0: none")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--text", type=int, default=64, help="text tokens")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--reshard", action="store_true", help="let gathered weights go after forward")
    parser.add_argument("--checkpointing", default="none", choices=["none", "selective", "full"])
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument(
        "--baseline", action=argparse.BooleanOptionalAction, default=True, help="also measure one process alone"
    )
    parser.add_argument("--folder", help="where checkpoints go (16 bytes per parameter); default: a temporary folder")
    parser.add_argument("--cpu", action="store_true", default=not torch.cuda.is_available())


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Launches: one process, all processes, all processes once more from the checkpoint."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        given = {**vars(args), "folder": folder}
        one = launched(given, 1, "steps") if args.baseline else None
        many = launched(given, args.processes, "steps")
        again = launched(given, args.processes, "resume") if "checkpoint" in many else {}
    found = {
        **{name: many[name] for name in ("parameters", "processes", "device", "torch", "python")},
        "preset": args.preset,
        "reshard": args.reshard,
        "all_processes": {name: many[name] for name in ("shards", "long", "checkpoint") if name in many},
        **again,
    }
    if one is not None:
        found["one_process"] = {name: one[name] for name in ("shards", "long") if name in one}
        for name, key in (("speedup_shards", "shards"), ("speedup_shared_window", "long")):
            if key in one:
                found[name] = round(many[key]["tokens_per_s"] / one[key]["tokens_per_s"], 3)
    return found


def launched(given: dict[str, Any], processes: int, what: str) -> dict[str, Any]:
    """What `processes` processes measured. Raises RuntimeError when they fail."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2"]
    launch += [
        "--fsdp_reshard_after_forward",
        str(given["reshard"]).lower(),
        "--fsdp_cpu_ram_efficient_loading",
        "false",
    ]
    launch += ["--num_machines", "1", "--num_processes", str(processes), "--main_process_port", str(port)]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dualforce_model.bench._spread"]
    asked = json.dumps({**given, "what": what, "processes": processes, "launched": time.time()})
    done = subprocess.run([*launch, asked], stdout=subprocess.PIPE, text=True)  # progress and trouble go to stderr
    for line in done.stdout.splitlines():
        if line.startswith(MARK) and done.returncode == 0:
            return json.loads(line.removeprefix(MARK))  # type: ignore[no-any-return]
    raise RuntimeError(f"{processes} process(es), {what}: exit code {done.returncode}\n{done.stdout[-2000:]}")
