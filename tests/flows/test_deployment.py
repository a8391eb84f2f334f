"""As the users do it: `dualforce deploy`, a worker, `prefect deployment run` of one stage and of the whole pipeline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request

import pytest
from chain import ROOT, SMALL, call, command, reused


@pytest.fixture(scope="module")
def workers(prefect_server):
    """Deployments on the server, and a worker for each pool."""
    said = call(command("deploy"))
    assert "work pool gpu" in said
    call(command("deploy"))  # safe to repeat
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            command("worker", "--pool", pool), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for pool in ("cpu", "gpu")
    ]
    yield prefect_server
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(60)


def deployment_run(name: str, **parameters) -> None:
    pairs = [part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")]
    call([sys.executable, "-m", "prefect", "deployment", "run", name, *pairs, "--watch"])


def test_one_stage(workers, run_copy):
    deployment_run("audio-features/dualforce", run_dir=str(run_copy), overrides=["audio_features.mels=64"])
    assert reused(run_copy)["audio_features"] == (0, 2)


def test_the_whole_pipeline_reuses_what_is_valid_and_its_runs_are_named(workers, run_copy, videos):
    deployment_run("pipeline/dualforce", run_dir=str(run_copy), config="demo", input_dir=str(videos), overrides=SMALL)
    assert all(part == whole for part, whole in reused(run_copy).values())
    query = urllib.request.Request(
        f"{workers}/flow_runs/filter",
        data=json.dumps({"sort": "EXPECTED_START_TIME_DESC", "limit": 50}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(query) as answer:
        runs = {run["name"]: run["state_name"] for run in json.load(answer)}
    assert runs["run-pipeline"] == "Completed"
    assert runs["run-face-crop"] == "Completed"


def test_the_form_shows_names_and_help(workers):
    with urllib.request.urlopen(f"{workers}/deployments/name/face-crop/dualforce") as answer:
        schema = json.load(answer)["parameter_openapi_schema"]
    assert list(schema["properties"]) == ["run_dir", "config", "input_dir", "overrides", "force"]
    assert schema["required"] == ["run_dir"]
    assert "quality.min_face_px" in schema["properties"]["overrides"]["description"]
