"""A training on a worker, cancelled, retried, killed with its worker, marked as crashed, retried; and old runs forgotten."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
import yaml
from chain import ROOT, call, command
from dashboard import Dashboard, processes_of, until, worker
from prefect.settings import PREFECT_API_URL, temporary_settings

from dualforce_model.train import checkpoint
from flows import deploy
from tasks import board


@pytest.fixture(scope="module")
def dashboard(prefect_server):
    assert "limit gpu: 3 at a time" in call(command("deploy", "--gpus", "3"))
    return Dashboard(prefect_server)


def long_training(run_dir: Path) -> Path | None:
    """The folder of the one long training of a run, once it is there."""
    found = [path.parent for path in run_dir.glob("checkpoints/*/train.json")]
    return next((folder for folder in found if '"steps": 100000' in (folder / "train.json").read_text()), None)


def steps_in(run_dir: Path) -> list[int]:
    """Steps that the long training has logged, newest last."""
    folder = long_training(run_dir)
    log = folder / "log.jsonl" if folder else Path("/nowhere")
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def slots(dashboard: Dashboard) -> int:
    return dashboard.ask("v2/concurrency_limits/gpu")["active_slots"]


def test_a_training_cancelled_retried_killed_and_retried_goes_on_where_it_was(dashboard, run_copy):
    with worker("gpu") as gpu:
        long = ["train.steps=100000", "train.checkpoint_every=50000", "train.batch=1", "train.frames=2"]
        long += ["train.spike=1e9"]  # so small a batch jumps about
        run = dashboard.start("train/dualforce", run_dir=str(run_copy), overrides=long)
        until(lambda: len(steps_in(run_copy)) > 3, "the first steps")
        assert slots(dashboard) == 1  # it holds the GPU
        assert dashboard.set_state(run, "CANCELLING", "Cancelling") == "ACCEPT"
        until(lambda: dashboard.state(run) == "Cancelled", "the end of a cancelled run", seconds=30)
        assert not processes_of(run_copy)  # launcher and ranks are gone
        kept = steps_in(run_copy)[-1]
        newest = long_training(run_copy) / checkpoint.name_of(kept)
        assert checkpoint.damage(newest) is None  # it was written when the run was told to end
        numbers = newest.parent.joinpath("log.jsonl").read_text()
        until(lambda: slots(dashboard) == 0, "the GPU's slot to be free")

        dashboard.retry(run)
        until(lambda: steps_in(run_copy)[-1] > kept + 3, "steps after the retry")
        assert newest.parent.joinpath("log.jsonl").read_text().startswith(numbers)  # it did not begin anew
        shown = dashboard.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        assert {"train-curves", "progress-train"} <= {artifact["key"] for artifact in shown}

        flow = int(dashboard.ask(f"flow_runs/{run}")["infrastructure_pid"])
        os.killpg(gpu.pid, signal.SIGKILL)  # the worker and the flow's own process, as if the machine had gone
        os.kill(flow, signal.SIGKILL)
        gpu.wait()
    assert dashboard.state(run) == "Running"
    assert "marked as crashed" in call(command("crashed"))
    assert dashboard.state(run) == "Crashed"
    assert {task["state_name"] for task in dashboard.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})} <= {
        "Crashed", "Failed", "Cancelled"
    }  # fmt: skip
    assert "has its process" in call(command("crashed"))

    before = until(lambda: not processes_of(run_copy) and steps_in(run_copy)[-1], "the orphan to save and leave")
    with worker("gpu"):
        dashboard.retry(run)
        until(lambda: steps_in(run_copy)[-1] > before + 3, "steps after the crash")
        dashboard.set_state(run, "CANCELLING", "Cancelling")
        until(lambda: dashboard.state(run) == "Cancelled", "the end")


def test_what_a_training_logs_of_its_validation_becomes_a_table(dashboard, tmp_path):
    def row(what, validation, training):
        return {"what": what, "validation": validation, "training": training}

    def shown():
        of_it = {"artifacts": {"key": {"any_": ["train-validation"]}}, "sort": "CREATED_DESC"}
        (table,) = dashboard.ask("artifacts/filter", of_it)  # one that changes
        return table["description"], json.loads(table["data"])

    folder = tmp_path / "training"
    folder.mkdir()
    log = folder / "log.jsonl"
    log.write_text('{"step": 1, "loss": 3.0}\n{"step": 1, "val_loss": 4.0, "val_loss_video": 2.5}\n{"step": 2, "lo')
    with temporary_settings({PREFECT_API_URL: dashboard.api}):
        training = board.Training("train", folder)
        training.look()
        assert shown() == ("Validation at step 1 of training", [row("loss", 4.0, 3.0), row("loss_video", 2.5, None)])
        with open(log, "a") as more:
            more.write('ss": 2.0}\n{"step": 2, "val_loss": 3.5}\n')
        training.look()
        assert shown() == ("Validation at step 2 of training", [row("loss", 3.5, 2.0)])


def test_the_automation_marks_a_run_whose_heartbeats_stopped(dashboard, run_copy):
    (shipped,) = deploy.automations()
    assert shipped["trigger"]["within"] >= 3 * 180  # heartbeats of a worker that was started without our settings
    quick = shipped | {"name": "quick", "trigger": shipped["trigger"] | {"within": 10}}
    quick["trigger"]["match_related"] = {"prefect.resource.role": "flow", "prefect.resource.name": ["train"]}
    file = run_copy.parent / "quick.yaml"
    file.write_text(yaml.safe_dump(quick))
    automation = [*command()[:2], "prefect", "automation"]
    call([*automation, "create", "--from-file", str(file)])
    long = ["train.steps=100000", "train.batch=1", "train.frames=2", "train.spike=1e9"]
    process = subprocess.Popen(
        command("run", run_copy, "--only", "train", *(word for pair in long for word in ("--set", pair))),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    try:
        running = {"name": {"any_": ["demo-run-train"]}, "state": {"type": {"any_": ["RUNNING"]}}}
        (run,) = until(lambda: dashboard.runs(**running), "the run")
        beat = {"name": ["prefect.flow-run.heartbeat"]}
        mine = {"event": beat, "resource": {"id": [f"prefect.flow-run.{run['id']}"]}}
        until(lambda: dashboard.ask("events/filter", {"filter": mine})["events"], "its heartbeat")
        process.kill()
        until(lambda: dashboard.state(run["id"]) == "Crashed", "the automation")
        assert "no heartbeat" in dashboard.ask(f"flow_runs/{run['id']}")["state"]["message"]
    finally:
        process.kill()
        process.wait()
        call([*automation, "delete", "quick"])  # ten seconds are too short for others
        until(lambda: not processes_of(run_copy), "the training to leave")


def test_old_runs_leave_the_server_and_nothing_leaves_the_run_folder(dashboard, prefect_server, finished):
    flow = dashboard.ask("flows/", {"name": "quality"})["id"]
    made = {}
    for name in ("old", "young"):
        body = {"flow_id": flow, "name": name, "state": {"type": "COMPLETED", "name": "Completed"}}
        made[name] = dashboard.ask("flow_runs/", body)["id"]
        dashboard.ask("artifacts/", {"key": f"of-{name}", "type": "markdown", "data": "x", "flow_run_id": made[name]})
    foreign = dashboard.ask("flows/", {"name": "somebody-elses"})["id"]
    body = {"flow_id": foreign, "name": "foreign", "state": {"type": "COMPLETED", "name": "Completed"}}
    made["foreign"] = dashboard.ask("flow_runs/", body)["id"]
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db", timeout=60) as database:
        for name in ("old", "foreign"):
            changed = database.execute(
                "UPDATE flow_run SET end_time = datetime(end_time, '-40 days') WHERE id = ?", (made[name],)
            )
            assert changed.rowcount == 1
    files = sorted(path for path in finished.rglob("*"))
    assert "1 runs that ended more than 30 days ago" in call(command("retention", "--days", "30"))
    assert {run["name"] for run in dashboard.runs(id={"any_": list(made.values())})} == {"young", "foreign"}
    assert dashboard.artifacts(made["old"]) == {}
    assert "of-young" in dashboard.artifacts(made["young"])
    assert sorted(path for path in finished.rglob("*")) == files
