"""What a training run is made of. Every key except those in `OPERATIONAL` decides the weights that come out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from dualforce_model import config as strict
from dualforce_model.config import ConfigError, near_misses
from dualforce_model.configs.forcing import DropRates, LossWeights, NoiseConfig
from dualforce_model.configs.shape import ABLATIONS, ModelConfig, ablation, preset


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine, both counted in optimiser steps."""

    lr: float = 2e-3  # the highest
    final_lr: float = 0.05  # of `lr`, at the last step
    warmup: int = 20  # steps up to it
    betas: tuple[float, float] = (0.9, 0.99)  # decay of the two moments
    eps: float = 1e-8  # of the division by the second
    weight_decay: float = 0.01  # of matrices; norms, biases and tables have none
    clip: float = 1.0  # largest norm of the whole gradient

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip <= 0 or self.warmup < 0:
            raise ConfigError(f"need lr > 0, clip > 0, warmup >= 0, got {self.lr}, {self.clip}, {self.warmup}")


@dataclass(frozen=True)
class FewStepConfig:
    """Progressive distillation (`train.few_step`): one step of the student is worth several of its teacher."""

    steps: int = 4  # in which the student goes from noise to clean
    teacher_steps: int = 2  # of the teacher, for each of them

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_steps < 2:
            raise ConfigError(f"need steps >= 1 and teacher_steps >= 2, got {self.steps}, {self.teacher_steps}")


@dataclass(frozen=True)
class TrainConfig:
    """One training stage."""

    SHIPPED: ClassVar[Path] = Path(__file__).parent.parent / "configs" / "train"

    # video: the video tower alone; joint: all parts; few_step: all parts, taught to take few steps
    stage: Literal["video", "joint", "few_step"] = "joint"
    # weights to begin with: a checkpoint or a folder of them (relative to the run folder), or in a run another stage
    start_from: str | None = None
    preset: str = "tiny"  # the model's size: tiny, small, mova_lite, mova_lite_slim, mova_lite_wan
    ablation: str | None = None  # a named experiment of configs/ablations.yaml
    # how far from the reference the video is taken to lie (model.precondition): small for minutes of training, whose
    # pictures then stay close to the reference; 0.1 and more where there is time to learn motion; null: not used
    reference_spread: float | None = 0.02
    model: dict[str, Any] = field(default_factory=dict)  # keys of ModelConfig on top of the preset, dotted or nested
    steps: int = 300  # optimiser steps
    batch: int = 8  # windows per optimiser step, all processes together
    frames: int = 5  # latents per window
    # longer windows: (latents, windows per step) for clips that are at least as long; each step has one length
    buckets: tuple[tuple[int, int], ...] = ()
    first_share: float = 0.25  # windows that start at the clip's first latent, as generation does
    seed: int = 0  # of fresh weights, the order of windows and all noise
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    drops: DropRates = field(default_factory=DropRates)
    losses: LossWeights = field(default_factory=LossWeights)
    few_step: FewStepConfig = field(default_factory=FewStepConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema: float = 0.99  # decay of the averaged weights, which generation uses
    threads: int = 1  # CPU threads per process; another number rounds otherwise
    precision: Literal["fp32", "bf16"] = "fp32"
    # a step whose loss is no number, or `spike` times the running mean: stop, or leave the weights as they are and go on
    on_spike: Literal["stop", "skip"] = "stop"
    spike: float = 10.0  # so many times the running mean is a spike

    checkpoint_every: int = 100  # steps
    keep: int = 2  # newest checkpoints that stay
    log_every: int = 1  # steps; a step that was not applied is always logged
    validate_every: int = 0  # steps; 0: never
    validate_windows: int = 16  # of held-out people, the same ones each time
    sample_every: int = 0  # pictures of held-out people, generated and original; 0: never
    sample_steps: int = 8  # denoising steps per latent of them
    norms_every: int = 0  # gradient norm of each loss term by itself, at the cost of a step each; 0: never
    workers: int = 0  # loader processes per training process
    accumulate: int = 1  # pieces that a process's share of a batch is computed in, one after the other
    # neighbouring processes that share each window (Ulysses); must divide heads, tokens and processes
    sequence: int = 1
    compile: bool = False  # blocks, for a GPU
    # each step recorded as a CUDA graph and launched by one call: on one GPU and with accumulate 1, elsewhere ignored
    graph: bool = False
    # what blocks keep for the backward pass: all, what is dear to compute again, or their input alone
    checkpointing: Literal["none", "selective", "full"] = "none"
    on_mismatch: Literal["refuse", "restart", "adopt"] = "refuse"  # checkpoints of other data or config in the way

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "frames", "checkpoint_every", "keep", "log_every", "threads", "sample_steps")
        for name in (*counts, "accumulate", "sequence"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is a decay in [0, 1), got {self.ema}")
        if self.spike <= 1:
            raise ConfigError(f"spike is a multiple of the running mean, above 1, got {self.spike}")
        lengths = [self.frames, *(length for length, _ in self.buckets)]
        if lengths != sorted(set(lengths)) or any(batch < 1 for _, batch in self.buckets):
            raise ConfigError(
                f"buckets are (latents, windows per step), each longer than the one before and than frames "
                f"({self.frames}), got {self.buckets}"
            )
        if self.stage == "few_step" and not self.start_from:
            raise ConfigError("start_from: stage few_step needs the checkpoint that is to teach it")
        try:
            self.shape()
            _ = self.levels
        except ConfigError as error:
            raise ConfigError(f"model: {error}") from error

    def shape(self, **width: Any) -> ModelConfig:
        """The model: preset, its changes, the ablation, the towers of this stage; `width`: sizes that the data decide."""
        changes = [f"{key}={json.dumps(value)}" for key, value in _dotted(self.model)]
        whole = preset(self.preset, *changes, reference_spread=self.reference_spread, **width)
        if self.ablation is not None:
            whole = ablation(self.ablation, whole)[0]
        return ablation("no_struct", whole)[0] if self.stage == "video" else whole

    @property
    def levels(self) -> NoiseConfig:
        """The noise levels: `noise` with the changes of the ablation."""
        changes = ablation_of(self.ablation).get("noise", {})
        return replace(self.noise, **changes)


def ablation_of(name: str | None) -> dict[str, Any]:
    """What a named experiment changes; nothing for None. Raises ConfigError for an unknown one."""
    if name is not None and name not in ABLATIONS:
        raise ConfigError(f"unknown ablation {name!r}{near_misses(name, ABLATIONS)}")
    return {} if name is None else ABLATIONS[name]


def _dotted(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """`a.b`, c for {a: {b: c}}."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{before}{key}.")
        else:
            yield before + key, value


@dataclass(frozen=True)
class VideoTraining(TrainConfig):
    """Causal video pretraining: the video tower alone."""

    stage: Literal["video"] = "video"


@dataclass(frozen=True)
class JointTraining(TrainConfig):
    """Joint diffusion forcing: all parts."""

    stage: Literal["joint"] = "joint"


@dataclass(frozen=True)
class FewStepTraining(TrainConfig):
    """Few-step tuning of a trained model."""

    stage: Literal["few_step"] = "few_step"
    start_from: str | None = "train"


# keys that may change between a run and its resumption: they decide no weight
OPERATIONAL = (
    "checkpoint_every", "keep", "log_every", "validate_every", "validate_windows", "sample_every", "sample_steps",
    "norms_every", "workers", "accumulate", "sequence", "compile", "graph",
    "checkpointing", "on_mismatch",
)  # fmt: skip


APART = (*OPERATIONAL, "start_from")


def lineage(config: TrainConfig) -> dict[str, Any]:
    """The part of the config that decides the weights; a checkpoint continues only under the same.

    The place of the checkpoint that it started from may change; which one it was is in lineage.json (`train.start`).
    """
    return {key: value for key, value in strict.to_dict(config).items() if key not in APART}
