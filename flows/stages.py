"""One flow per stage: each can be deployed and run alone, on a run folder that holds what comes before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.runtime import flow_run

from flows.settings import prepare
from tasks.config import STAGES
from tasks.run_stage import run_stage

StageFlow = Flow[Any, dict[str, int]]
PARAMETERS = """

    Args:
        run_dir: the run folder.
        config: a YAML file, a shipped config (demo, local), or empty for what the run folder last used.
        input_dir: folder with videos; empty for the config's.
        overrides: settings such as `quality.min_face_px=120`.
        force: do again what is valid.
"""


def run_name() -> str:
    """`<run folder>-<flow>`: what the dashboard shows."""
    return f"{Path(flow_run.parameters.get('run_dir') or 'run').name}-{flow_run.flow_name}"


def _stage(name: str, what: str) -> StageFlow:
    def stage(
        run_dir: str,
        config: str | None = None,
        input_dir: str | None = None,
        overrides: list[str] = [],  # noqa: B006  (never changed; the dashboard's form shows it)
        force: bool = False,
    ) -> dict[str, int]:
        return run_stage(prepare(config, run_dir, input_dir, overrides), name, force)

    stage.__name__ = stage.__qualname__ = name
    stage.__doc__ = what + PARAMETERS  # the dashboard's form shows it
    return flow(name=name.replace("_", "-"), flow_run_name=run_name, persist_result=False)(stage)


download = _stage("download", "Fetch the videos of the datasets' lists, politely and without losing count.")
source = _stage("source", "Find the videos of the input folder, name them by content, probe each.")
face_crop = _stage("face_crop", "Cut each source into stable 512×512 clips of one face, 25 fps, 16 kHz sound.")
quality = _stage("quality", "Measure every clip and give its verdict from the thresholds.")
video_latents = _stage("video_latents", "Extract the video latents of accepted clips.")
struct_latents = _stage("struct_latents", "Extract the struct latents (head pose, 21 keypoints) of accepted clips.")
flame = _stage("flame", "Extract the FLAME parameters of accepted clips, with their validity.")
audio_features = _stage("audio_features", "Extract the audio features of accepted clips.")
reference = _stage("reference", "Extract the reference latents of accepted clips.")
metadata = _stage("metadata", "Validate all features, split by identity, compute statistics, publish the metadata.")
train = _stage("train", "Train on the dataset of the run folder; a killed run resumes at its last checkpoint.")
generate = _stage("generate", "Generate a sample from the checkpoint: reference picture and sound in, video out.")

FLOWS: dict[str, StageFlow] = {name: globals()[name] for name in STAGES}
