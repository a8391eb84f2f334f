"""The configuration of a run: one section per stage, each defined beside the code that it configures."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dualforce_model.config import ConfigError
from dualforce_model.download.config import DownloadConfig
from dualforce_model.faces import FaceCropConfig
from dualforce_model.features import FEATURES
from dualforce_model.features.audio_features import AudioFeaturesConfig
from dualforce_model.features.flame import FlameConfig
from dualforce_model.features.reference import ReferenceConfig
from dualforce_model.features.struct_latents import StructLatentsConfig
from dualforce_model.features.video_latents import VideoLatentsConfig
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.metadata import MetadataConfig
from dualforce_model.quality import MeasureConfig, QualityConfig
from dualforce_model.train.config import TrainConfig


@dataclass(frozen=True)
class SourceConfig:
    """Where videos come from."""

    input: Path | None = None  # folder with videos, any tree
    # endings of file names that are taken for videos, in any case
    suffixes: tuple[str, ...] = (
        ".mp4",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".m4v",
        ".ts",
        ".wmv",
        ".flv",
    )


@dataclass(frozen=True)
class RunnerConfig:
    """How the work is spread on this machine."""

    workers: int = 0  # processes; 0 = one per core
    shard_size: int = 256  # items per Prefect task run
    train_processes: int = 1  # ranks of the training job on this machine: one per GPU
    accelerate: Path | None = None  # launch settings instead, see infra/accelerate
    clip_timeout_s: float = 3600.0  # one item may take this long; then its worker is stopped and the item failed

    def __post_init__(self) -> None:
        if self.workers < 0 or self.shard_size < 1:
            raise ConfigError("workers must be >= 0 and shard_size >= 1")

    @property
    def processes(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run makes. `runner` alone changes nothing about the results."""

    name: str = "local"
    download: DownloadConfig = field(default_factory=DownloadConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    face_crop: FaceCropConfig = field(default_factory=FaceCropConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    video_latents: VideoLatentsConfig = field(default_factory=VideoLatentsConfig)
    struct_latents: StructLatentsConfig = field(default_factory=StructLatentsConfig)
    flame: FlameConfig = field(default_factory=FlameConfig)
    audio_features: AudioFeaturesConfig = field(default_factory=AudioFeaturesConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)


STAGES = ("download", "source", "face_crop", "quality", *FEATURES, "metadata", "train", "generate")
