"""The training loop: the same from one CPU process to many GPUs, and the same after any interruption."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor
from torch.utils.data import DataLoader

from dualforce_model.data import Dataset, Sample
from dualforce_model.diffusion import Terms, generator_for
from dualforce_model.model import DualForce
from dualforce_model.train import checkpoint
from dualforce_model.train.batches import loader
from dualforce_model.train.config import TrainConfig
from dualforce_model.train.log import Log
from dualforce_model.train.objective import Objective, model_config
from dualforce_model.train.optimiser import Ema, adamw, learning_rate
from dualforce_model.train.state import TrainState, count, objections, refuse, written_by_this_code
from dualforce_model.train.validate import validation_terms


class DivergedError(RuntimeError):
    """The loss or its gradient is no number any more; the message names step and clips."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `stopped`: by SIGTERM, with a checkpoint to go on from."""

    state: Literal["finished", "stopped"]
    step: int
    checkpoint: Path


def train(
    config: TrainConfig, run_dir: Path, out: Path, say: Callable[[str], None] = print, supervised: bool = False
) -> Outcome:
    """Train on the run folder `run_dir` into the checkpoint folder `out`, going on from what is there.

    `supervised`: standard input is a pipe held by whoever started us; when it closes, that process is gone and we stop.
    Raises BadInput (no dataset, another run's checkpoints), ConfigError and DivergedError.
    """
    torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # said aloud: without it several CPU processes would not find each other
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    with _sole_writer(out, accelerator.is_main_process, say), _Signals(supervised) as signals:
        accelerator.wait_for_everyone()  # nobody looks for a checkpoint while another run may still write one
        return _Run(config, run_dir, out, accelerator, say if accelerator.is_main_process else _silent).go(signals)


class _Run:
    def __init__(
        self, config: TrainConfig, run_dir: Path, out: Path, accelerator: Accelerator, say: Callable[[str], None]
    ):
        self.config, self.out, self.accelerator, self.say = config, out, accelerator, say
        self.dataset = Dataset.open(run_dir)
        torch.manual_seed(config.seed)
        self.shape = model_config(config, self.dataset.card)
        model = DualForce(self.shape).to(accelerator.device)
        self.state = TrainState(model, Ema(model, config.ema), adamw(model, config.optimiser))
        self._resume()
        # wrapped after loading, so that every process starts from the same weights by itself
        self.wrapped, self.optimiser = accelerator.prepare(model, self.state.optimiser)
        self.objective = Objective(config, self.dataset.card, accelerator.device)
        self.named: set[str] = set()  # unreadable clips that were reported

    def _resume(self) -> None:
        found = checkpoint.newest(self.out, self.say)
        wrong = objections(found, self.config, self.dataset.card) if found else []
        if found and wrong:
            if self.config.on_mismatch == "refuse":
                raise refuse(found, wrong)
            self.say(f"{found} belongs to another run ({'; '.join(wrong)}): {self.config.on_mismatch}")
            if self.config.on_mismatch == "restart":
                self.accelerator.wait_for_everyone()  # nobody looks any more
                if self.accelerator.is_main_process:
                    checkpoint.clear(self.out)
                found = None
        if found:
            self.state.load(found)
            other = "" if written_by_this_code(found) else ", which was written by other code: not bit for bit"
            self.say(f"going on from {found}{other}")

    def go(self, signals: _Signals) -> Outcome:
        config, state = self.config, self.state
        self.say(
            f"training {config.preset} ({count(state.model):,} parameters) on {len(self.dataset.clips['train'])} clips,"
            f" steps {state.step + 1}..{config.steps}, {self.accelerator.num_processes} process(es), "
            f"{self.accelerator.device.type}"
        )
        log = Log(self.out, state.step) if self.accelerator.is_main_process else None
        clock = time.perf_counter()
        stopped = False
        for batch in self._batches():
            waited = time.perf_counter() - clock
            rate = learning_rate(config.optimiser, state.step, config.steps)
            terms, norm = self._step(batch, rate)
            row = self._together({**terms, "skipped": float(len(batch["skipped"])), "stop": float(signals.caught)})
            stopped = row.pop("stop") > 0
            skipped = round(row.pop("skipped") * self.accelerator.num_processes)
            now = time.perf_counter()
            if log and (state.step % config.log_every == 0 or state.step == config.steps):
                line = {"step": state.step, **row, "grad_norm": norm, "lr": rate, "skipped": skipped}
                log.add(**line, seconds=round(now - clock, 4), data_seconds=round(waited, 4))
                self.say(json.dumps(line))
            clock = now
            if config.validate_every and state.step % config.validate_every == 0:
                self._validate(log)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps or stopped:
                self._save(log)
            if stopped:
                break
        if log:
            log.close()
        kept = self.out / checkpoint.name_of(state.step)
        return Outcome("stopped" if stopped and state.step < config.steps else "finished", state.step, kept)

    def _step(self, batch: Sample, rate: float) -> tuple[dict[str, Tensor], float]:
        """One optimiser step; the terms of this process's loss and the norm of everybody's gradient."""
        state, accelerator = self.state, self.accelerator
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for clip_id, message in batch["skipped"]:
            if clip_id not in self.named:
                self.named.add(clip_id)
                print(f"clip {clip_id} is skipped in training: {message}", flush=True)
        generator = generator_for("noise", self.config.seed, state.step, accelerator.process_index)
        found = self.objective(self.wrapped, batch, generator)
        accelerator.backward(found.total)
        # the norm is of all processes' gradient, so they all agree on what follows
        norm = float(accelerator.clip_grad_norm_(state.model.parameters(), self.config.optimiser.clip))
        if not math.isfinite(norm):
            raise DivergedError(
                f"the gradient of step {state.step + 1} is not finite (losses of this process: "
                f"{ {name: float(value) for name, value in found.terms.items()} }); its clips: "
                f"{', '.join(sorted(set(gather_object(batch['clip_id']))))}. The last checkpoint is from before it."
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        state.ema.update(state.model, state.step)
        state.step += 1
        return _named(found), norm

    def _batches(self) -> DataLoader[Sample]:
        """The share of this process in every global batch from the next step on."""
        accelerator, config = self.accelerator, self.config
        return loader(
            self.dataset,
            config,
            self.shape,
            range(self.state.step, config.steps),
            accelerator.process_index,
            accelerator.num_processes,
            pin=accelerator.device.type == "cuda",
        )

    def _validate(self, log: Log | None) -> None:
        """Loss of the averaged weights on held-out identities: the same windows and the same noise every time."""
        clips, config, accelerator = self.dataset.clips["val"], self.config, self.accelerator
        if not clips:
            return

        def terms_of(batch: Sample, generator: torch.Generator) -> dict[str, Tensor]:
            return _named(self.objective(self.state.model, batch, generator))

        with self.state.ema.in_place_of(self.state.model):
            mine = validation_terms(
                clips, self.dataset.card, config, self.shape, terms_of,
                accelerator.process_index, accelerator.num_processes,
            )  # fmt: skip
        row = self._together(mine)
        if log:
            log.add(step=self.state.step, **{f"val_{name}": value for name, value in row.items()})

    def _together(self, terms: Mapping[str, Tensor | float]) -> dict[str, float]:
        """The mean of each term over the processes."""
        mine = torch.stack(
            [torch.as_tensor(v, dtype=torch.float32, device=self.accelerator.device).detach() for v in terms.values()]
        )
        return dict(zip(terms, self.accelerator.reduce(mine, "mean").tolist(), strict=True))

    def _save(self, log: Log | None) -> None:
        if log:
            log.sync()
            checkpoint.write(
                self.out, self.state.step, lambda folder: self.state.save(folder, self.config, self.dataset.card)
            )
            checkpoint.prune(self.out, self.config.keep, self.config.checkpoint_every)
        self.accelerator.wait_for_everyone()


def _named(found: Terms) -> dict[str, Tensor]:
    """What the log calls a step's loss and its terms."""
    return {"loss": found.total} | {f"loss_{name}": value for name, value in found.terms.items()}


class _Signals:
    """Notes, without breaking a step, that it is time to go: SIGTERM, or whoever started us is gone."""

    def __init__(self, supervised: bool):
        self._asked, self._supervised, self._launcher = False, supervised, os.getppid()

    def __enter__(self) -> _Signals:
        self._before = signal.signal(signal.SIGTERM, self._ask)
        if self._supervised:
            threading.Thread(target=self._wait_for_end_of_input, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _wait_for_end_of_input(self) -> None:
        while os.read(0, 4096):
            pass
        self._asked = True

    @property
    def caught(self) -> bool:
        launched = "LOCAL_RANK" in os.environ  # then the parent is the launcher
        return self._asked or (launched and os.getppid() != self._launcher)


@contextmanager
def _sole_writer(out: Path, main: bool, say: Callable[[str], None]) -> Iterator[None]:
    """One run at a time writes into `out`; a second one waits for the first (its orphans, perhaps) to end."""
    if not main:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"waiting: process {lock.read().strip()} is training into {out}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _silent(message: str) -> None:
    """What processes other than the first have to say."""
