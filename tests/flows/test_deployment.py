"""As the users do it: `dualforce deploy`, workers, `prefect deployment run`, and what the dashboard then shows."""

from __future__ import annotations

import json
import urllib.error

import pytest
from chain import SMALL, call, command, reused
from dashboard import Dashboard, deployment_run, until, worker

from tasks.config import STAGES


@pytest.fixture(scope="module")
def dashboard(prefect_server):
    """Deployments on the server, and a worker for each pool."""
    said = call(command("deploy"))
    assert "work pool gpu" in said
    with worker("cpu"), worker("gpu"):
        yield Dashboard(prefect_server)


def everything(dashboard: Dashboard) -> str:
    """What `dualforce deploy` makes, without what workers change."""
    kinds = ("work_pools", "deployments", "v2/concurrency_limits", "automations")
    found = {kind: dashboard.ask(f"{kind}/filter", {"limit": 200}) for kind in kinds}
    for thing in [thing for things in found.values() for thing in things]:
        for key in (
            "updated",
            "last_polled",
            "status",
            "active_slots",
            "global_concurrency_limit",
            "base_job_template",
        ):
            thing.pop(key, None)
    found["deployments"].sort(key=lambda deployment: deployment["entrypoint"])
    return json.dumps(found, sort_keys=True, indent=1)


def test_deploying_again_changes_nothing(dashboard):
    before = everything(dashboard)
    for what in (
        '"dualforce-crashed"',
        '"name": "gpu"',
        '"flows/stages.py:audio_features"',
        '"flows/retention.py:retention"',
    ):
        assert what in before
    call(command("deploy"))
    assert everything(dashboard) == before


def test_every_deployment_explains_its_parameters_and_none_runs_by_itself(dashboard):
    deployments = dashboard.ask("deployments/filter", {"limit": 200})
    assert {d["entrypoint"].split(":")[1] for d in deployments} == {*STAGES, "pipeline", "retention"}
    for deployment in deployments:
        assert deployment["schedules"] == []
        assert "dualforce" in deployment["tags"]
        assert deployment["global_concurrency_limit"]["limit"] >= 1
        assert deployment["description"]
        assert "Args:" not in deployment["description"]
        for parameter in deployment["parameter_openapi_schema"]["properties"].values():
            assert parameter["description"]
    form = next(d for d in deployments if d["entrypoint"].endswith("face_crop"))["parameter_openapi_schema"]
    assert list(form["properties"]) == ["run_dir", "config", "input_dir", "overrides", "force"]
    assert form["required"] == ["run_dir"]
    assert "quality.min_face_px" in form["properties"]["overrides"]["description"]
    assert "`hdtf`" in form["properties"]["config"]["description"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        dashboard.start("pipeline/dualforce", run_dir="/nowhere", only=["face_crops"])
    assert "face_crops" in refused.value.read().decode()


def test_one_stage_with_another_setting(dashboard, run_copy):
    deployment_run("audio-features/dualforce", run_dir=str(run_copy), overrides=["audio_features.mels=64"])
    assert reused(run_copy)["audio_features"] == (0, 2)


def test_two_features_of_a_run_side_by_side_and_what_fails_says_why(dashboard, run_copy):
    names = ("audio-features", "flame")
    runs = [
        dashboard.start(f"{name}/dualforce", run_dir=str(run_copy), force=True, overrides=[f"runner.workers={n}"])
        for n, name in enumerate(names, 1)
    ]
    wrong = dashboard.start("quality/dualforce", run_dir=str(run_copy), overrides=["quality.min_face=1"])
    for run in runs:
        assert until(lambda run=run: dashboard.ask(f"flow_runs/{run}")["end_time"], "the end of a run")
        assert dashboard.state(run) == "Completed"
    until(lambda: dashboard.state(wrong) == "Failed", "the refusal of a setting")
    assert "min_face_px" in dashboard.ask(f"flow_runs/{wrong}")["state"]["message"]
    assert "run-flame" in dashboard.ask(f"flow_runs/{runs[1]}")["name"]


def test_the_whole_pipeline_reuses_what_is_valid_and_says_so(dashboard, run_copy, videos):
    folder = run_copy.rename(run_copy.parent / "take-two")
    deployment_run("pipeline/dualforce", run_dir=str(folder), config="demo", input_dir=str(videos), overrides=SMALL)
    assert all(part == whole for part, whole in reused(folder).values())
    (run,) = dashboard.runs(name={"any_": ["demo-take-two-pipeline"]})
    assert run["state_name"] == "Completed"
    assert {"funnel", "report"} <= dashboard.artifacts(run["id"]).keys()
    inside = {r["name"]: r for r in dashboard.runs(parent_flow_run_id={"any_": [run["id"]]})}
    assert inside["demo-take-two-face-crop"]["state_name"] == "Completed"
    assert "contact-sheet" in dashboard.artifacts(inside["demo-take-two-quality"]["id"])
    assert "funnel-face-crop" in dashboard.artifacts(inside["demo-take-two-face-crop"]["id"])
