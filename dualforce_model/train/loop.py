"""The training loop: the same from one CPU process to many GPUs, and the same after any interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch._functorch import config as functorch

from dualforce_model.config import ConfigError
from dualforce_model.data import Dataset, Sample
from dualforce_model.diffusion import Recorded, Terms, decile_means, generator_for, gradient_norms
from dualforce_model.errors import BadInput
from dualforce_model.model.fresh import fresh_weights
from dualforce_model.train import checkpoint, start
from dualforce_model.train.batches import loader
from dualforce_model.train.config import TrainConfig
from dualforce_model.train.heed import Signals, sole_writer
from dualforce_model.train.log import Log
from dualforce_model.train.objective import Objective, Prepared, model_config
from dualforce_model.train.optimiser import Ema, adamw, learning_rate
from dualforce_model.train.parallel import Parallel, averaged, fill
from dualforce_model.train.samples import Sampler
from dualforce_model.train.saver import Saver
from dualforce_model.train.state import TrainState, count, objections, refuse, written_by_this_code
from dualforce_model.train.throughput import Throughput, text_tokens
from dualforce_model.train.validate import validation_terms
from dualforce_model.train.watch import DivergedError, Watch


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `stopped`: by SIGTERM, with a checkpoint to go on from."""

    state: Literal["finished", "stopped"]
    step: int
    checkpoint: Path


@dataclass
class Done:
    """A step as all processes together saw it."""

    terms: dict[str, float]  # `loss` and `loss_<term>`
    deciles: dict[str, list[float]]
    norm: float
    windows: int  # of the global batch
    frames: int  # latents of each
    text: int  # text tokens of each
    wrong: str | None = None  # why the weights stayed as they were
    stop: bool = False  # somebody was told to stop
    written: bool = False  # all files of the pending checkpoint are on disk
    skipped: int = 0  # unreadable windows that others stood in for
    norms: dict[str, float] = field(default_factory=dict)  # of each term's own gradient
    clips: list[str] = field(default_factory=list)  # of the batch, where something was wrong


def train(
    config: TrainConfig, run_dir: Path, out: Path, say: Callable[[str], None] = print, supervised: bool = False
) -> Outcome:
    """Train on the run folder `run_dir` into the checkpoint folder `out`, going on from what is there.

    `supervised`: standard input is a pipe held by whoever started us; when it closes, that process is gone and we stop.
    Raises BadInput (no dataset, another run's checkpoints), ConfigError, DivergedError, and SaveError when a checkpoint
    can't be written.
    """
    if config.losses.lip:  # nothing trains or loads a scorer yet
        raise ConfigError(f"losses.lip is {config.losses.lip}, but there is no scorer for the lip term: leave it at 0")
    torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # said aloud: without it several CPU processes would not find each other
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.device.type == "cpu":
        torch.use_deterministic_algorithms(True)
    parallel = Parallel(accelerator, config.sequence, config.precision == "bf16")
    with sole_writer(out, parallel.main, say), Signals(supervised) as signals:
        if parallel.main:
            checkpoint.clean(out)
        parallel.wait()  # nobody looks for a checkpoint while another run may still write one
        return _Run(config, run_dir, out, parallel, say if parallel.main else _silent).go(signals)


class _Run:
    def __init__(self, config: TrainConfig, run_dir: Path, out: Path, parallel: Parallel, say: Callable[[str], None]):
        self.config, self.run_dir, self.out, self.parallel, self.say = config, run_dir, out, parallel, say
        self.dataset = Dataset.open(run_dir)
        self._share_evenly()
        torch.manual_seed(config.seed)
        self.shape = model_config(config, self.dataset.card)
        found = self._to_go_on_from()
        self.norms = bool(config.norms_every) and self._alone
        if self.norms:  # each term's own backward pass leaves to the others what it reads
            functorch.donated_buffer = False  # type: ignore[attr-defined]
        model = parallel.build(self.shape, config.compile)
        model.set_checkpointing(config.checkpointing)
        if found is None:
            self._begin(model)
        self.state = TrainState(model, Ema(model, config.ema), adamw(model, config.optimiser))
        self.watch = Watch(config)
        self.skipped = 0  # unreadable windows since the last line of the log
        self._remember()
        if found is not None:
            self.state.load(found, parallel)
            self.watch.load(self.state.extra["watch"])
            self.skipped = self.state.extra["skipped"]
            other = "" if written_by_this_code(found) else ", which was written by other code: not bit for bit"
            say(f"going on from {found}{other}")
        self.wrapped = parallel.wrap(model)
        teacher = start.teacher(self.source, parallel.device) if config.stage == "few_step" and self.source else None
        self.objective = Objective(config, self.dataset.card, parallel.device, teacher)
        self.fill = Recorded(model, self._gradients) if config.graph and self._alone else self._gradients
        self.saver = Saver(out, parallel, config.keep, config.checkpoint_every)
        self.saver.expect(self.state.size(parallel))
        drawn = config.sample_every and parallel.main
        self.sampler = Sampler(config, self.dataset, self.shape, out, say) if drawn else None
        self.throughput = Throughput(self.shape, self.dataset.card, parallel.world, parallel.device)
        self.named: set[str] = set()  # unreadable clips that were reported

    def _share_evenly(self) -> None:
        config, processes = self.config, self.parallel.data_world
        for size in (config.batch, *(windows for _, windows in config.buckets)):
            if size % (processes * config.accumulate):
                raise ConfigError(
                    f"a batch of {size} windows can't be shared evenly by {processes} processes in {config.accumulate} "
                    "pieces each: change batch, buckets, accumulate or the number of processes"
                )

    @cached_property
    def source(self) -> Path | None:
        """The checkpoint that this stage starts from, checked whole; a few-step student learns from it ever after."""
        return self.parallel.first(lambda: start.source(self.config, self.run_dir))

    def _to_go_on_from(self) -> Path | None:
        """The checkpoint that this run continues; damaged ones that are newer are out of its way."""
        config, parallel = self.config, self.parallel
        found = parallel.first(lambda: checkpoint.newest(self.out, self.say))
        wrong = [] if found is None else self._objections(found)
        if found and wrong:
            if config.on_mismatch == "refuse":
                raise refuse(found, wrong)
            self.say(f"{found} belongs to another run ({'; '.join(wrong)}): {config.on_mismatch}")
            if config.on_mismatch == "restart":
                found = None
                if parallel.main:
                    checkpoint.clear(self.out)
        if parallel.main:
            checkpoint.set_aside(self.out, found, self.say)
        return found

    def _objections(self, found: Path) -> list[str]:
        """Why this run can't continue a checkpoint."""
        config, card, shape = self.config, self.dataset.card, self.shape
        teacher = self.source if config.stage == "few_step" else None

        def look() -> list[str]:
            return objections(found, config, shape, card) + start.objections(config, self.run_dir, self.out, teacher)

        return self.parallel.first(look)

    def _begin(self, model: torch.nn.Module) -> None:
        """Fresh weights, every one a function of the seed and its name; those of another stage in their place."""
        seed = self.config.seed
        fill(model, fresh_weights(model, lambda name: generator_for("weights", seed, name), "cpu"))  # type: ignore[arg-type]
        expected = {name: parameter.shape for name, parameter in model.named_parameters()}
        origin = start.begin(self.config, self.source, self.dataset.card, expected, self.say)
        fill(model, origin.weights)
        if self.parallel.main:
            start.write(self.out, origin.lineage)

    def go(self, signals: Signals) -> Outcome:
        config, state, parallel = self.config, self.state, self.parallel
        self.say(
            f"training {config.preset} ({count(state.model):,} parameters) on {len(self.dataset.clips['train'])} clips,"
            f" steps {state.step + 1}..{config.steps}, {parallel}"
        )
        if config.validate_every and not self.dataset.clips["val"]:
            self.say("no validation: the dataset has nobody in its val split (metadata.val_share)")
        if config.norms_every and not self.norms:
            self.say("no norms per term: they are computed by one process only, with accumulate 1 (norms_every)")
        log = Log(self.out, state.step, self.say) if parallel.main else None
        try:
            stopped = self._steps(log, signals)
        finally:
            if log:
                log.close()
        parallel.wait()
        kept = self.out / checkpoint.name_of(state.step)
        return Outcome("stopped" if stopped and state.step < config.steps else "finished", state.step, kept)

    def _steps(self, log: Log | None, signals: Signals) -> bool:
        """All that are left, or until somebody is told to stop; whether that was so."""
        config, state = self.config, self.state
        clock = time.perf_counter()
        stopped = False
        for parts in self._batches():
            waited = time.perf_counter() - clock
            rate = learning_rate(config.optimiser, state.step, config.steps)
            done = self._step(parts, rate, signals)
            self.skipped += done.skipped
            stopped = done.stop
            now = time.perf_counter()
            if state.step % config.log_every == 0 or state.step == config.steps or done.wrong:
                line = _line(state.step, done, rate, self.skipped)
                self.skipped = 0
                if log:
                    figures = self.throughput.numbers(done.windows, done.frames, done.text, now - clock)
                    log.add(**line, seconds=round(now - clock, 4), data_seconds=round(waited, 4), **figures)
                self.say(json.dumps({name: value for name, value in line.items() if not isinstance(value, list)}))
            if done.wrong:
                self._refused(done)
            self._after_step(log)
            if done.written:
                self.saver.finish()
            if state.step % config.checkpoint_every == 0 or state.step == config.steps or stopped:
                self._save(log)
            if stopped:
                break
            clock = time.perf_counter()
        self.saver.close()
        return stopped

    def _batches(self) -> Iterator[list[Sample]]:
        """The pieces of this process's share of every global batch, from the next step on."""
        config, parallel = self.config, self.parallel
        pieces = iter(
            loader(
                self.dataset,
                config,
                self.shape,
                range(self.state.step, config.steps),
                parallel.data_rank,
                parallel.data_world,
                config.accumulate,
                pin=parallel.device.type == "cuda",
            )
        )
        for first in pieces:
            yield [first, *(next(pieces) for _ in range(config.accumulate - 1))]

    def _step(self, parts: Sequence[Sample], rate: float, signals: Signals) -> Done:
        """One optimiser step on the pieces of this process's share."""
        state, config, parallel = self.state, self.config, self.parallel
        self._name_skipped(parts)
        prepared, first = [], parallel.data_rank * sum(len(part["clip_id"]) for part in parts)
        for part in parts:
            # what a window meets is a function of its place in the global batch, so any number of processes agrees
            places = range(first, first := first + len(part["clip_id"]))
            keys = [generator_for("noise", config.seed, state.step, n, device=parallel.device) for n in places]
            prepared.append(self.objective.prepare(part, keys))
        counts = parallel.total(sum(p.counts for p in prepared[1:]) + prepared[0].counts) / parallel.data_world
        found: list[Terms] = []
        norms: dict[str, Tensor] = {}
        for n, one in enumerate(prepared):
            with parallel.part_of_step(self.wrapped, last=n + 1 == len(prepared)):
                terms, norms = self.fill((one, counts, self._norms_due()))
            found.append(terms)
        norm = parallel.clip(state.model.parameters(), config.optimiser.clip)
        done = self._together(found, norm, parts, signals)
        done.norms = {name: float(value) for name, value in norms.items()}
        done.wrong = self.watch.judge(done.terms["loss"], done.norm)
        if done.wrong:  # the weights stay as they are
            mine = [clip for part in parts for clip in part["clip_id"]]
            done.clips = sorted({clip for some in parallel.gathered(mine) for clip in some})
        else:
            for group in state.optimiser.param_groups:
                group["lr"] = rate
            state.optimiser.step()
            state.ema.update(state.model, state.updates)
            state.updates += 1
        if not isinstance(self.fill, Recorded):  # which fills them anew, in place
            state.optimiser.zero_grad(set_to_none=True)
        state.step += 1
        return done

    def _gradients(self, given: tuple[Prepared, Tensor, bool]) -> tuple[Terms, dict[str, Tensor]]:
        """Forward and backward of one piece of a batch; and the norm of each term's own gradient, where wanted."""
        one, counts, norms_wanted = given
        with self.parallel.autocast():
            terms = self.objective(self.wrapped, one, counts)
        norms = gradient_norms(terms.terms, self.state.model.parameters()) if norms_wanted else {}
        terms.total.backward()  # type: ignore[no-untyped-call]
        return Terms(terms.total.detach(), {k: v.detach() for k, v in terms.terms.items()}, terms.deciles), norms

    def _together(self, found: list[Terms], norm: Tensor, parts: Sequence[Sample], signals: Signals) -> Done:
        """What all processes found in a step, in one exchange."""
        parallel, names, streams = self.parallel, list(found[0].terms), list(found[0].deciles)
        losses = torch.stack([torch.stack([one.total, *one.terms.values()]) for one in found]).sum(0)
        deciles = torch.stack([torch.stack(list(one.deciles.values())) for one in found]).sum(0)
        flags = [sum(len(part["skipped"]) for part in parts), signals.caught, self.saver.ready]
        mine = torch.cat([losses.double(), deciles.flatten().double(), losses.new_tensor(flags).double()])
        whole = parallel.total(mine)
        means = (whole[: len(losses)] / parallel.data_world).tolist()
        tenths = whole[len(losses) : -len(flags)].reshape(len(streams), 2, -1)
        skipped, stop, ready = whole[-len(flags) :].tolist()
        return Done(
            terms={"loss": means[0]} | {f"loss_{name}": value for name, value in zip(names, means[1:], strict=True)},
            deciles={name: decile_means(sums).tolist() for name, sums in zip(streams, tenths, strict=True)},
            norm=float(norm),
            windows=sum(len(part["clip_id"]) for part in parts) * parallel.data_world,
            frames=parts[0]["video"].shape[2],
            text=text_tokens(parts[0]),
            stop=stop > 0,
            written=ready * parallel.sequence >= parallel.world,
            skipped=round(skipped),
        )

    def _refused(self, done: Done) -> None:
        """Say whose clips it was that were not learned from, and stop if the policy says so."""
        what = f"step {self.state.step}: {done.wrong}; its clips: {', '.join(done.clips)}"
        if self.watch.stops:
            self.saver.close()
            raise DivergedError(f"{what}. The last checkpoint is from before it.")
        self.say(f"skipped {what}")

    def _norms_due(self) -> bool:
        return self.norms and (self.state.step + 1) % self.config.norms_every == 0

    @property
    def _alone(self) -> bool:
        """Whether one process computes the gradient of a step in one piece."""
        return self.parallel.world == 1 and not self.parallel.sharded and self.config.accumulate == 1

    def _after_step(self, log: Log | None) -> None:
        """Validation and pictures, when they are due."""
        config, step = self.config, self.state.step
        if config.validate_every and step % config.validate_every == 0:
            self._validate(log)
        if config.sample_every and (step % config.sample_every == 0 or step == config.steps):
            model = self.state.averaged_model(self.parallel)
            picture = self.sampler.write(model, step) if self.sampler and model else None
            if log and picture:
                log.picture(step, picture)
            self.parallel.wait()

    def _validate(self, log: Log | None) -> None:
        """Loss of the averaged weights on held-out identities: the same windows and the same noise every time."""
        clips, parallel, state = self.dataset.clips["val"], self.parallel, self.state
        if not clips:
            return

        def terms_of(batch: Sample, generator: torch.Generator) -> dict[str, Tensor]:
            self._name_skipped([batch])
            prepared = self.objective.prepare(batch, [generator])
            with parallel.autocast():
                found = self.objective(state.model, prepared)
            return {"loss": found.total} | {f"loss_{name}": value for name, value in found.terms.items()}

        try:
            with averaged(state.model, state.ema.weights):
                mine = validation_terms(
                    clips, self.dataset.card, self.config, self.shape, terms_of, parallel.data_rank, parallel.data_world
                )
        except BadInput as error:
            # none of them can be read, which every process finds at its first; training needs none
            self.say(f"no validation: {error}")
            return
        means = (parallel.total(torch.stack(list(mine.values()))) / parallel.data_world).tolist()
        if log:
            log.add(step=state.step, **{f"val_{name}": value for name, value in zip(mine, means, strict=True)})

    def _save(self, log: Log | None) -> None:
        """Begin a checkpoint; training goes on while it is written."""
        if log:
            log.sync()
        state, parallel = self.state, self.parallel
        self._remember()
        texts = state.texts(self.config, self.dataset.card, parallel)
        self.saver.begin(state.step, state.files(parallel), texts)

    def _remember(self) -> None:
        """What a checkpoint tells beside the state of the model."""
        self.state.extra = {"watch": self.watch.state(), "skipped": self.skipped}

    def _name_skipped(self, parts: Sequence[Sample]) -> None:
        for clip_id, message in (skip for part in parts for skip in part["skipped"]):
            if clip_id not in self.named:
                self.named.add(clip_id)
                print(f"clip {clip_id} is skipped in training: {message}", flush=True)


def _line(step: int, done: Done, rate: float, skipped: int) -> dict[str, Any]:
    """A step as the log has it; `skipped`: since the line before."""
    line: dict[str, Any] = {"step": step, **done.terms, "grad_norm": done.norm, "lr": rate, "skipped": skipped}
    line |= {f"deciles_{name}": means for name, means in done.deciles.items()}
    line |= {f"norm_{name}": value for name, value in done.norms.items()}
    return line | ({"spike": done.wrong, "clips": done.clips} if done.wrong else {})


def _silent(message: str) -> None:
    """What processes other than the first have to say."""
