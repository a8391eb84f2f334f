"""One process of `bench parallel`: started by it through accelerate's launcher, prints what it measured as JSON."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from dualforce_model.bench._machine import compiler_cache, median, surroundings, timed
from dualforce_model.bench.train import random_batch
from dualforce_model.diffusion import draw, generator_for, terms_of
from dualforce_model.model import preset
from dualforce_model.model.fresh import fresh_weights
from dualforce_model.timeline import SPATIAL
from dualforce_model.train.__main__ import leave
from dualforce_model.train.config import OptimiserConfig, TrainConfig
from dualforce_model.train.optimiser import Ema, adamw
from dualforce_model.train.parallel import Parallel, fill
from dualforce_model.train.saver import Saver
from dualforce_model.train.state import TrainState

MARK = "MEASURED "
CARD = {"identity": "random data"}


class Bench:
    """A model spread over the processes, with optimiser and average, fed with random windows."""

    def __init__(self, given: dict[str, Any], frames: int, batch: int, sequence: int = 1):
        self.given, self.frames, self.batch = given, frames, batch
        self.parallel = Parallel(Accelerator(cpu=given["cpu"]), sequence, bf16=True)
        device = self.parallel.device
        shape = preset(given["preset"], *given["set"])
        model = self.parallel.build(shape, compiled=not given["eager"])
        model.set_checkpointing(given["checkpointing"])
        fill(model, fresh_weights(model, lambda name: generator_for(name, device=device), device))
        self.state = TrainState(model, Ema(model, 0.999), adamw(model, OptimiserConfig()))
        self.wrapped: nn.Module = self.parallel.wrap(model)
        self.windows = random_batch(shape, frames, batch, given["pixels"], given["text"], device)
        self.keys = generator_for("noise", self.parallel.data_rank, device=device)
        self.tokens = (given["pixels"] // SPATIAL // shape.patch) ** 2 + (shape.struct_tokens if shape.struct else 0)

    def step(self) -> None:
        state = self.state
        with self.parallel.part_of_step(self.wrapped, last=True), self.parallel.autocast():
            loss = terms_of(self.wrapped, self.windows, draw(self.windows, self.keys)).total
        loss.backward()  # type: ignore[no-untyped-call]
        self.parallel.clip(state.model.parameters(), 1.0)
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        state.ema.update(state.model, state.step)
        state.step += 1
        state.updates += 1

    def measure(self) -> dict[str, Any]:
        """Milliseconds per step and tokens per second of all processes together."""
        device, parallel = self.parallel.device, self.parallel
        first = timed(self.step, device, 1, 0)
        say(self.given, f"first step {first[0] / 1e3:.1f} s, compiler's cache: {compiler_cache()}")
        spent = timed(self.step, device, self.given["steps"], self.given["warmup"])
        milliseconds = median(spent)
        found = {
            "frames": self.frames,
            "windows": self.batch * parallel.data_world,
            "first_step_s": round(first[0] / 1e3, 1),
            "compiler_cache": compiler_cache(),
            "ms_per_step": round(milliseconds, 1),
            "ms_range": [round(min(spent), 1), round(max(spent), 1)],
            "tokens_per_s": round(1e3 * self.tokens * self.frames * self.batch * parallel.data_world / milliseconds, 1),
        }
        if device.type == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
            torch.cuda.reset_peak_memory_stats(device)
        return found

    def close(self) -> None:
        """Give the memory back."""
        self.__dict__.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def say(given: dict[str, Any], what: str) -> None:
    """Progress, for who waits: minutes go by."""
    print(f"{time.time() - given['launched']:6.1f} s  {what}", file=sys.stderr, flush=True)


def kinds(given: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Frames, windows per process and processes per window: short windows of one's own, and a long one that all share."""
    every = {"shards": (given["frames"], given["batch"], 1), "long": (given["long"], 1, given["processes"])}
    return {name: kind for name, kind in every.items() if kind[0]}


def steps(given: dict[str, Any]) -> dict[str, Any]:
    """Each kind of window, and with the first the checkpoints."""
    found: dict[str, Any] = {}
    for name, kind in kinds(given).items():
        bench, saver = Bench(given, *kind), None
        say(given, f"built: {bench.parallel}")
        if bench.parallel.world > 1 and not found:
            saver = Saver(Path(given["folder"]), bench.parallel, keep=1, every=1)
            saver.expect(bench.state.size(bench.parallel))  # at the start, as training does
        found[name] = bench.measure()
        say(given, f"{name}: {found[name]}")
        found |= surroundings(bench.parallel.device)
        found["parameters"] = sum(p.numel() for p in bench.state.model.parameters())
        found["processes"] = bench.parallel.world
        if saver is not None:
            found["checkpoint"] = checkpointed(bench, saver)
        bench.close()
    return found


def checkpointed(bench: Bench, saver: Saver) -> dict[str, Any]:
    """Two checkpoints while steps go on: how long training stood still, and how long the writing took."""
    parallel, state, device = bench.parallel, bench.state, bench.parallel.device
    config = TrainConfig(preset=bench.given["preset"])
    found: dict[str, Any] = {"stall_s": [], "written_s": [], "ms_per_step_meanwhile": []}
    for _ in range(2):
        began = time.perf_counter()
        saver.begin(state.step, state.files(parallel), state.texts(config, CARD, parallel))
        found["stall_s"].append(round(saver.stalled, 3))
        meanwhile: list[float] = []
        while parallel.total(torch.tensor(float(saver.ready), device=device)) < parallel.data_world:
            meanwhile += timed(bench.step, device, 1, 0)
        saver.finish()
        found["written_s"].append(round(time.perf_counter() - began, 1))
        saver.close()
        say(bench.given, f"stood still {found['stall_s'][-1]} s, written {found['written_s'][-1]} s")
        found["ms_per_step_meanwhile"].append(round(median(meanwhile), 1) if meanwhile else None)
    # the folder name differs from step to step; the last one stays for `resumed`
    return found


def resumed(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds from the launch of new processes to the end of the first step after the last checkpoint."""
    from dualforce_model.train import checkpoint

    bench = Bench(given, *next(iter(kinds(given).values())))
    built = time.time()
    say(given, "built")
    parallel = bench.parallel
    found = parallel.gathered(checkpoint.newest(Path(given["folder"])) if parallel.main else None)[0]
    checked = time.time()
    bench.state.load(found, parallel)
    loaded = time.time()
    say(given, "loaded")
    timed(bench.step, parallel.device, 1, 0)
    parallel.wait()
    say(given, "first step done")
    return {
        "resume_s": round(time.time() - given["launched"], 1),
        "of_which": {
            "start and model": round(built - given["launched"], 1),
            "checking digests": round(checked - built, 1),
            "reading": round(loaded - checked, 1),
            "first step": round(time.time() - loaded, 1),
            "compiler's cache": compiler_cache(),
        },
    }


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    found = {"steps": steps, "resume": resumed}[given["what"]](given)
    if torch.distributed.is_initialized():
        main_process = torch.distributed.get_rank() == 0
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    else:
        main_process = True
    if main_process:
        print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
    leave(0)
