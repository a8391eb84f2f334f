"""One flow per stage: each can be deployed and run alone, on a run folder that holds what comes before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.runtime import flow_run

from flows.crashed import worked_on_here
from flows.settings import load, name_of, prepare, shipped
from tasks.config import STAGES
from tasks.run import lock
from tasks.run_stage import run_stage

StageFlow = Flow[Any, dict[str, int]]
PARAMETERS = """

    Args:
        run_dir: the run folder, as an absolute path on the worker's machine.
        config: a shipped config ({shipped}), a YAML file, another run folder, or None for what this folder last used.
        input_dir: a folder with videos, or None for what the config says.
        overrides: settings as KEY=VALUE, such as `quality.min_face_px=120`.
        force: do again what is valid.
""".replace("{shipped}", ", ".join(f"`{name}`" for name in shipped()))  # the dashboard's form shows it


def run_name() -> str:
    """`<dataset>-<run folder>-<flow>`, the dataset only where the folder's name does not say it already."""
    given = flow_run.parameters
    folder = Path(given.get("run_dir") or "run")
    dataset = name_of(given.get("config"), folder)
    label = folder.name if dataset in folder.name else f"{dataset}-{folder.name}"
    return f"{label}-{flow_run.flow_name}"


def _stage(name: str, what: str) -> StageFlow:
    def stage(
        run_dir: str,
        config: str | None = None,
        input_dir: str | None = None,
        overrides: list[str] = [],  # noqa: B006  (never changed; the dashboard's form shows it)
        force: bool = False,
    ) -> dict[str, int]:
        load(config, Path(run_dir), overrides)  # what is wrong with it is said before anything is made or waited for
        with worked_on_here(), lock(Path(run_dir), name):
            return run_stage(prepare(config, run_dir, input_dir, overrides), name, force)

    stage.__name__ = stage.__qualname__ = name
    stage.__doc__ = what + PARAMETERS
    return flow(name=name.replace("_", "-"), description=what, flow_run_name=run_name, persist_result=False)(stage)


download = _stage("download", "Fetch the videos of the datasets' lists, politely and without losing count.")
source = _stage("source", "Find the videos of the input folder, name them by content, probe each.")
face_crop = _stage("face_crop", "Cut each source into stable 512×512 clips of one face, 25 fps, 16 kHz sound.")
quality = _stage("quality", "Measure every clip and give its verdict from the thresholds.")
video_latents = _stage("video_latents", "Extract the video latents of accepted clips.")
struct_latents = _stage("struct_latents", "Extract the struct latents (head pose, 21 keypoints) of accepted clips.")
flame = _stage("flame", "Extract the FLAME parameters of accepted clips, with their validity.")
audio_features = _stage("audio_features", "Extract the audio features of accepted clips.")
reference = _stage("reference", "Extract the reference latents of accepted clips.")
text = _stage("text", "Embed the captions of accepted clips, each distinct one once.")
metadata = _stage("metadata", "Validate all features, split by identity, compute statistics, publish the metadata.")
train_video = _stage("train_video", "Pretrain the video tower alone; a killed run resumes at its last checkpoint.")
train = _stage(
    "train", "Train all parts on the dataset of the run folder; a killed run resumes at its last checkpoint."
)
train_few = _stage("train_few", "Teach a trained model to take few steps, from the checkpoint that it starts from.")
generate = _stage("generate", "Generate a sample from the checkpoint: reference picture and sound in, video out.")

FLOWS: dict[str, StageFlow] = {name: globals()[name] for name in STAGES}
