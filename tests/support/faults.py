"""What is done to a run to see whether it stands it: its processes and its server killed, and what must be left of it."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree

import light_chain
import psutil
import waiting
from chain import ROOT, call, command, differences, free_port, run_command

from dualforce_model.demo.clips import SCENES, render_scene
from dualforce_model.store import ledger
from flows import server

STAGES = ("source", "face_crop", "quality", "video_latents", "struct_latents", "flame", "audio_features", "reference")
STAGES = (*STAGES, "metadata")
TINY = ["face_crop.size=64", "quality.min_duration_s=0.3", "runner.workers=2"]
LIGHT = ["runner.workers=2", "runner.shard_size=16"]
DEADLINE_S = 300.0  # for anything that must happen on the busiest machine


def render_videos(folder: Path) -> Path:
    """Two people, less than a second each."""
    for n, who in enumerate(("astronaut", "man")):
        scene = replace(SCENES[0], file=f"{who}.mp4", sitters=(who,), seconds=0.8, width=256, height=256, face=140.0)
        render_scene(scene, folder, (0, n))
    return folder


def run_of(videos: Path, run_dir: Path, *more: str) -> list[str]:
    """The real stages over tiny videos."""
    only = [part for stage in STAGES for part in ("--only", stage)]
    return run_command(videos, run_dir, *only, *more, sets=TINY)


def light_run(videos: Path, run_dir: Path) -> list[str]:
    """The stages of `light_chain`."""
    only = [part for stage in light_chain.NAMES for part in ("--only", stage)]
    arguments = run_command(videos, run_dir, *only, sets=LIGHT)
    return [arguments[0], light_chain.__file__, *arguments[3:]]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


until = partial(waiting.until, seconds=DEADLINE_S)


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; nothing once it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def workers_of(pid: int) -> list[psutil.Process]:
    """The pool's processes among them."""
    found = []
    for process in family(pid)[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def is_worker(process: psutil.Process) -> bool:
    """Whether it waits for runs, and is not one itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "worker" in process.cmdline()
    return False


def kill(processes: list[psutil.Process]) -> int:
    """SIGKILL; how many of them lived."""
    hit = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            hit += 1
    return hit


class Server:
    """A real Prefect server that can be killed and comes back with its database, as the environment names it."""

    def __init__(self, home: Path):
        self.port = free_port()
        os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=server.url(self.port))
        self.process = server.start(self.port, wait_s=DEADLINE_S)

    def kill(self) -> None:
        kill(family(self.process.pid))
        self.process.wait()

    def start(self) -> None:
        self.process = server.start(self.port, wait_s=DEADLINE_S)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@dataclass
class Monkey:
    """Kills parts of runs at random moments; the same seed makes the same choices."""

    server: Server
    videos: Path
    undisturbed: Path
    run_dir: Path
    lasts_s: float  # an undisturbed run
    seed: int
    command: Callable[[Path, Path], list[str]] = run_of
    log: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)  # how runs ended that were not killed themselves
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def torment(self, targets: list[str], kills: int) -> None:
        """So many kills, each kind equally often; after each run that was left to end, and at last, all must be there."""
        plan = [targets[n % len(targets)] for n in range(kills)]
        self.random.shuffle(plan)
        for number, target in enumerate(plan):
            while not getattr(self, target.replace(" ", "_"))():
                self.ended()  # before it was hit: another run
            self.say(f"{number + 1}/{kills}: killed {target}")
        if self.process is not None:
            self.process.wait(DEADLINE_S)
            self.ended()
        self.complete()

    def say(self, line: str) -> None:
        self.log.append(line)
        print(f"[seed {self.seed}] {line}", flush=True)

    def moment(self) -> psutil.Process | None:
        """Start a run unless one goes on, and wait for a random moment of it. None when it ended before."""
        if self.process is None:
            with open(self.said, "wb") as said:
                arguments = self.command(self.videos, self.run_dir)
                self.process = subprocess.Popen(
                    arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=said
                )
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.random.uniform(0, 1.1 * self.lasts_s))
        return psutil.Process(self.process.pid) if self.process.poll() is None else None

    @property
    def said(self) -> Path:
        return self.run_dir.with_suffix(".said")

    def ended(self) -> None:
        """A run came to its end: with everything, or with one plain sentence."""
        process, self.process = self.process, None
        assert process is not None
        said = self.said.read_text()
        assert process.returncode in (0, 2), f"code {process.returncode}\n{said}\n{self.log}"
        self.ends["complete" if process.returncode == 0 else said.strip().splitlines()[-1]] += 1
        if process.returncode == 0:
            self.complete()
            rmtree(self.run_dir)

    def complete(self) -> None:
        """Run to the end, again as long as a row asks for it (an item whose worker was killed twice); compare."""
        for _ in range(3):
            call(self.command(self.videos, self.run_dir))
            rows = [ledger.read(self.run_dir, stage) for stage in ledger.stages(self.run_dir)]
            if not any((some["retry"] & some["reason"].isin(["worker_died", "timeout"])).any() for some in rows):
                break
        assert differences(self.run_dir, self.undisturbed) == [], self.log

    # each of these returns whether it hit

    def pool_worker(self) -> bool:
        flow = self.moment()
        while flow is not None and flow.is_running() and self.process is not None and self.process.poll() is None:
            if (workers := workers_of(flow.pid)) and kill([self.random.choice(workers)]):
                return True
            time.sleep(0.02)
        return False

    def flow(self) -> bool:
        if self.moment() is None or self.process is None:
            return False
        self.process.kill()
        self.process.wait()
        self.process = None
        return True

    def the_server(self) -> bool:
        if self.moment() is None:
            return False
        self.server.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert self.process is not None
            self.process.wait(self.random.uniform(0, 0.5 * self.lasts_s))
        self.server.start()
        return True

    def everything(self) -> bool:
        if self.moment() is None or self.process is None:
            return False
        kill([*family(self.process.pid), *family(self.server.process.pid)])
        self.process.wait()
        self.process = None
        self.server.process.wait()
        self.server.start()
        return True

    def prefect_worker(self) -> bool:
        """The worker that started a run of the deployment, and half of the time the run with it."""
        if self.process is not None:  # it holds the folder
            self.process.wait(DEADLINE_S)
            self.ended()
        worker = subprocess.Popen(
            command("worker", "--pool", "cpu"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment(),
        )
        parameters = {"run_dir": self.run_dir, "input_dir": self.videos, "config": "demo"}
        pairs = [part for name, value in parameters.items() for part in ("--param", f'{name}="{value}"')]
        lists = {"overrides": TINY, "only": list(STAGES)}
        pairs += [part for name, value in lists.items() for part in ("--param", f"{name}={value}".replace("'", '"'))]
        call([sys.executable, "-m", "prefect", "deployment", "run", "pipeline/dualforce", *pairs])
        until(lambda: (self.run_dir / ".lock").exists() or worker.poll() is not None, "the worker began the run")
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(self.random.uniform(0, 0.7 * self.lasts_s))
        whole = family(worker.pid)
        workers = [process for process in whole if is_worker(process)]  # our command, and Prefect's that it started
        kill(whole if self.random.random() < 0.5 else workers)
        worker.wait()
        _, alive = psutil.wait_procs([process for process in whole if process.pid != worker.pid], timeout=DEADLINE_S)
        assert not alive, "a run whose worker was killed does not end"
        return True
