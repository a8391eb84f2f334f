"""The configuration of a run: one section per stage, each defined beside the code that it configures."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dualforce_model.config import ConfigError
from dualforce_model.download.config import DownloadConfig
from dualforce_model.faces import FaceCropConfig
from dualforce_model.features import FEATURES
from dualforce_model.features.audio_features import AudioFeaturesConfig
from dualforce_model.features.captions import TextConfig
from dualforce_model.features.flame import FlameConfig
from dualforce_model.features.reference import ReferenceConfig
from dualforce_model.features.struct_latents import StructLatentsConfig
from dualforce_model.features.video_latents import VideoLatentsConfig
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.metadata import MetadataConfig
from dualforce_model.quality import MeasureConfig, QualityConfig
from dualforce_model.train.config import FewStepTraining, JointTraining, VideoTraining


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
    """How the work is spread, on this machine or on several, and where its results are kept."""

    kind: Literal["threads", "dask", "ray"] = "threads"  # who does the shards: this machine, or a cluster's workers
    address: str = ""  # the cluster's (Dask tcp://host:8786, Ray host:6379); empty = two workers on this machine
    store: str = ""  # shared storage, such as s3://bucket/prefix; run folders are then its working copies
    store_secret: str = ""  # name of a Prefect Secret block with its options (JSON), where the environment has none
    workers: int = 0  # processes on each machine; 0 = one per core
    shard_size: int = 256  # items per Prefect task run
    train_processes: int = 1  # ranks of the training job on this machine: one per GPU
    gpus: tuple[int, ...] = ()  # which GPUs training and extraction may use; none named: all that are there
    per_gpu: int = 0  # extracting processes that share a GPU; 0: as many as fit, twelve at most
    accelerate: Path | None = None  # launch settings instead, see infra/accelerate
    clip_timeout_s: float = 3600.0  # one item may take this long; then its worker is stopped and the item failed

    def __post_init__(self) -> None:
        if min(self.workers, self.per_gpu) < 0 or self.shard_size < 1:
            raise ConfigError("workers and per_gpu must be >= 0 and shard_size >= 1")
        if self.address and self.kind == "threads":
            raise ConfigError("address is of a cluster; set kind to dask or ray with it")
        if "@" in self.store:
            raise ConfigError(
                "store: no keys in the URL; they come from the environment or the block store_secret names"
            )
        if self.store and "://" not in self.store:
            raise ConfigError(f"store: expected a URL such as s3://bucket/prefix, got {self.store!r}")

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
    text: TextConfig = field(default_factory=TextConfig)
    metadata: MetadataConfig = field(default_factory=MetadataConfig)
    train_video: VideoTraining | None = None  # null: training begins with the joint stage
    train: JointTraining = field(default_factory=JointTraining)
    train_few: FewStepTraining | None = None  # null: no few-step tuning
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)

    def leaves_out(self, stage: str) -> bool:
        """Whether a stage has nothing to do by this configuration, so that it runs only when it is asked for by name."""
        if stage == "download":  # the videos lie in a folder
            return not self.download.lists
        if stage == "text":
            return self.text.backend == "none"
        return stage in TRAININGS and getattr(self, stage) is None


TRAININGS = ("train_video", "train", "train_few")  # the first and the last only where they are configured
STAGES = ("download", "source", "face_crop", "quality", *FEATURES, "text", "metadata", *TRAININGS, "generate")
