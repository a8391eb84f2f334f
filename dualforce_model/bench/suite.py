"""Take the figures of the documentation that need a GPU, each in a process of its own, as many as fit into some minutes.

Every figure has its own command (`--list` prints them); this runs them in order and keeps what each printed. First all are
rehearsed at once in short form, so that everything is compiled and in the compiler's cache; then each is taken with a GPU
to itself, on a machine that does nothing but this.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TRAIN = ("train", "--preset", "mova_lite")
SMALL = ("--preset", "tiny", "--pixels", "64", "--frames", "2", "--eager")  # for a try without a GPU


@dataclass(frozen=True)
class Entry:
    """One figure: the words of its command, those that make it short, and those for a try on a CPU."""

    name: str
    words: tuple[str, ...]
    short: tuple[str, ...] | None  # None: nothing to rehearse
    small: tuple[str, ...]
    gpus: int = 1


def _train(name: str, *words: str) -> Entry:
    return Entry(name, (*TRAIN, *words), ("--steps", "1", "--warmup", "0"), (*SMALL, "--batch", "1", "--steps", "1"))


def _generate(name: str, *words: str) -> Entry:
    return Entry(name, ("generate", *words), ("--frames", "9"), (*SMALL[:4], "--frames", "9", "--eager"))


def _extract(part: str, *words: str) -> Entry:
    words = ("extract", "--parts", part, "--precision", "bfloat16", *words)
    small = ("--size", "64", "--clips", "2", "--frames", "5", "--batch", "4", "--repeats", "1", "--workers", "2")
    return Entry(f"extract_{part}", words, ("--repeats", "1", "--clips", "4", "--workers", "1"), small)


ENTRIES = (
    Entry("verify", ("verify",), None, (*SMALL[:4], "--eager", "--layers", "1", "--steps", "2")),
    _train("train_8", "--frames", "8", "--batch", "2", "--profile"),
    _train("train_8_full", "--frames", "8", "--batch", "2", "--checkpointing", "full"),
    _train("train_8_selective", "--frames", "8", "--batch", "2", "--checkpointing", "selective"),
    _train("train_8_float8", "--frames", "8", "--batch", "2", "--float8"),
    _train("train_8_batch_4", "--frames", "8", "--batch", "4"),
    _train("train_21", "--frames", "21", "--batch", "1"),
    _train("train_33", "--frames", "33", "--batch", "1"),
    Entry("generate_check", ("generate", "--check"), None, (*SMALL[:4], "--eager")),
    _generate("generate_10", "--steps", "10", "--guidance-audio", "3", "--profile"),
    _generate("generate_4", "--steps", "4", "--profile"),
    _generate("generate_10_wan", "--steps", "10", "--guidance-audio", "3", "--decoder", "wan_vae"),
    _generate("generate_4_wan", "--steps", "4", "--decoder", "wan_vae"),
    Entry(
        "serve", ("serve", "--sessions", "3"), ("--sessions", "1", "--seconds", "1"),
        (*SMALL[:4], "--steps", "1", "--seconds", "1", "--eager"),
    ),
    _extract("wan"),
    _extract("hubert"),
    _extract("liveportrait"),
    _extract("emoca"),
    _extract("whole_wan"),
    _extract("whole_liveportrait"),
    Entry(
        "parallel",
        ("parallel",),
        ("--processes", "1", "--no-baseline", "--steps", "1", "--warmup", "0"),
        ("--preset", "tiny", "--pixels", "64", "--frames", "2", "--long", "2", "--batch", "1", "--steps", "1", "--eager"),
        gpus=2,
    ),
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which figures, and for how long."""
    parser.add_argument("--only", nargs="+", choices=[entry.name for entry in ENTRIES], metavar="NAME")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="nothing goes on after these; what is left out is said"
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of NAME.json (results) and NAME.log")
    parser.add_argument("--rehearse", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--at-once",
        type=int,
        default=6,
        help="rehearsals at a time; one holds 60 GiB for a moment, `parallel` some 100 (reckoned)",
    )
    parser.add_argument("--list", action="store_true", help="print the commands and do nothing")
    parser.add_argument("--small", action="store_true", help="tiny sizes: a try of the suite itself")


def command(entry: Entry, *more: str) -> list[str]:
    return [sys.executable, "-m", "dualforce_model.bench", *entry.words, *more, "--json"]


@dataclass
class Job:
    """A command that runs: since when, on which GPUs."""

    entry: Entry
    process: subprocess.Popen[bytes]
    began: float
    gpus: list[int]

    def end(self, until: float) -> int | None:
        """Its exit code once it has ended, by itself or because time is up."""
        if self.process.poll() is None and time.monotonic() > until:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group: a launcher's processes go with it
            self.process.wait()
        return self.process.returncode


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Per figure: seconds, exit code, the result; `holds` when all ran and held."""
    chosen = [entry for entry in ENTRIES if args.only is None or entry.name in args.only]
    if args.list:
        return {entry.name: " ".join(["python", *command(entry)[1:]]) for entry in chosen}
    args.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * args.minutes
    gpus = list(range(torch.cuda.device_count() or 2))
    small = {entry.name: entry.small if args.small else () for entry in chosen}
    if args.rehearse:
        short = [(entry, (*small[entry.name], *entry.short)) for entry in chosen if entry.short is not None]
        for entry, code, seconds, _ in together(short, args.out / "rehearsal", until, gpus, args.at_once):
            print(f"rehearsed {entry.name}: {seconds:.0f} s, exit code {code}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    for entry, code, seconds, text in together([(e, small[e.name]) for e in chosen], args.out, until, gpus, None):
        try:
            result = json.loads(text)
        except ValueError:
            result = None
        found[entry.name] = {"exit_code": code, "seconds": round(seconds, 1), "result": result}
        print(f"{entry.name}: {seconds:.0f} s, exit code {code}", file=sys.stderr, flush=True)
    for entry in chosen:
        found.setdefault(entry.name, "left out: no time was left, or too few GPUs")
    return {**found, "holds": all(isinstance(one, dict) and one["exit_code"] == 0 for one in found.values())}


def together(
    given: Sequence[tuple[Entry, tuple[str, ...]]], out: Path, until: float, gpus: list[int], at_once: int | None
) -> Iterator[tuple[Entry, int, float, str]]:
    """Entry, exit code, seconds and output of each command, as they end: `at_once` of them, or one per GPU."""
    out.mkdir(parents=True, exist_ok=True)
    left = [(entry, words) for entry, words in given if entry.gpus <= len(gpus)]
    jobs: list[Job] = []
    turn = 0
    while (left and time.monotonic() < until) or jobs:
        while left and time.monotonic() < until:
            entry, words = left[0]
            free = [gpu for gpu in gpus if all(gpu not in job.gpus for job in jobs)]
            if at_once is not None:
                if len(jobs) >= at_once:
                    break
                free, turn = [gpus[turn % len(gpus)]] * entry.gpus, turn + 1
            elif len(free) < entry.gpus:
                break
            left.pop(0)
            jobs.append(_begin(entry, words, free[: entry.gpus], out))
        for job in list(jobs):
            if (code := job.end(until)) is not None:
                jobs.remove(job)
                text = (out / f"{job.entry.name}.json").read_text(encoding="utf-8")
                yield job.entry, code, time.monotonic() - job.began, text
        time.sleep(0.1)


def _begin(entry: Entry, words: tuple[str, ...], gpus: list[int], out: Path) -> Job:
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, dict.fromkeys(gpus)))} if torch.cuda.is_available() else {}
    with open(out / f"{entry.name}.json", "wb") as told, open(out / f"{entry.name}.log", "wb") as log:
        process = subprocess.Popen(
            command(entry, *words), stdout=told, stderr=log, env={**os.environ, **seen}, start_new_session=True
        )
    return Job(entry, process, time.monotonic(), gpus)
