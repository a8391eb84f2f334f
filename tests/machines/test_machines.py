"""The same flows on the workers of Dask and Ray and over an S3 bucket: the ledger and every byte are those of one machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import fsspec
import pytest
from chain import ROOT, SMALL, call, command, differences, free_port, ledgers, run_command
from s3 import KEYS, Wire
from waiting import until

from dualforce_model.store import ledger

ONLY_THE_SETTINGS = ["run.json differs"]  # they say where it ran
NO_FACE = "bad_noface_7frames_2fps.mp4"
FEW = ("source", "face_crop", "quality", "audio_features")
SHARDS = [*SMALL, "runner.shard_size=1"]
OTHERS = ("video_latents", "struct_latents", "flame", "reference", "metadata", "train", "generate")


@pytest.fixture(scope="module")
def few(on_one_machine, tmp_path_factory):
    """What the undisturbed run had when it had done FEW stages."""
    folder = tmp_path_factory.mktemp("few") / "run"
    shutil.copytree(on_one_machine, folder)
    for name in OTHERS:
        shutil.rmtree(folder / "ledger" / name)
        shutil.rmtree(folder / "features" / name, ignore_errors=True)
    for name in ("checkpoints", "samples"):
        shutil.rmtree(folder / name)
    for name in ("metadata.json", "metadata.parquet", "stats.json"):
        (folder / name).unlink()
    return folder


def only(*stages: str) -> list[str]:
    return [part for stage in stages for part in ("--only", stage)]


def workers(run_dir, stage: str) -> set[str]:
    return set(ledger.read(run_dir, stage)["worker"])


def test_two_workers_of_ray_do_what_threads_do(few, videos, tmp_path):
    run_dir = tmp_path / "run"
    call(run_command(videos, run_dir, *only(*FEW), sets=[*SHARDS, "runner.kind=ray"]))
    assert differences(run_dir, few) == ONLY_THE_SETTINGS
    assert len(workers(run_dir, "face_crop")) == 2
    names, lines = on_the_dashboard(run_dir, "face-crop")
    assert names == {"face_crop-0000", "face_crop-0001", "face_crop-0002"}
    assert sum(f"{NO_FACE}: rejected, no_face" in line for line in lines) == 1


def test_two_workers_of_dask_on_this_machine(few, videos, tmp_path):
    run_dir = tmp_path / "run"
    call(run_command(videos, run_dir, *only("source"), sets=[*SHARDS, "runner.kind=dask"]))
    assert len(workers(run_dir, "source")) == 2
    assert ledgers(run_dir)["source"] == ledgers(few)["source"]


def on_the_dashboard(run_dir, flow: str) -> tuple[set[str], list[str]]:
    """The task runs of a stage of this run folder that completed, and what was logged by them."""
    flows = ask("flow_runs", flows={"name": {"any_": [flow]}})
    (mine,) = [run["id"] for run in flows if run["parameters"]["run_dir"] == str(run_dir)]
    tasks = ask("task_runs", flow_runs={"id": {"any_": [mine]}})
    logs = ask("logs", logs={"flow_run_id": {"any_": [mine]}})
    return {task["name"] for task in tasks if task["state_name"] == "Completed"}, [line["message"] for line in logs]


def ask(what: str, **filters) -> list[dict]:
    query = urllib.request.Request(
        f"{os.environ['PREFECT_API_URL']}/{what}/filter",
        data=json.dumps(filters).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(query) as answer:
        return json.load(answer)


@pytest.fixture
def two_machines(tmp_path):
    """A Dask scheduler and two workers that share no files: where the run folder should be, each sees one of its own."""
    run_dir, port = tmp_path / "run", free_port()
    run_dir.mkdir()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    begin = [[*dask, "--no-dashboard"]]
    for name in "ab":
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
        worker += ["--name", name, "--no-dashboard", "--local-directory", str(tmp_path / name)]
        apart = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
        begin.append(["unshare", "--mount", "--map-root-user", "sh", "-c", apart, str(run_dir), *worker])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(c, env=environment, stderr=subprocess.DEVNULL) for c in begin]
    yield run_dir, address, processes[1:]
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(30)


def test_two_machines_with_nothing_in_common_but_a_bucket(two_machines, on_one_machine, bucket, videos, tmp_path):
    run_dir, address, machines = two_machines
    cluster = ["runner.kind=dask", f"runner.address={address}", f"runner.store={bucket}/two", "runner.workers=1"]
    there = fsspec.filesystem("s3")
    with running(run_command(videos, run_dir, sets=[*SHARDS, *cluster])) as process:
        wait_until(lambda: there.exists("bucket/two/ledger/quality"), process)
        machines[0].kill()  # one goes away in the middle; the other does its shards
        said = process.communicate(timeout=600)[0].decode()
    assert process.returncode == 0, said
    assert workers(run_dir, "face_crop") == {f"{socket.gethostname()}:{machine.pid}" for machine in machines}
    assert workers(run_dir, "train").isdisjoint(workers(run_dir, "face_crop"))  # long jobs stay with the flow
    sheets = ask("artifacts", artifacts={"key": {"any_": ["contact-sheet"]}})
    assert f"Accepted clips of {run_dir}" in {sheet["description"] for sheet in sheets}

    save = (
        "from prefect.blocks.system import Secret; import os; Secret(value=os.environ['OPTIONS']).save('of-the-store')"
    )
    keys = {"key": KEYS["AWS_ACCESS_KEY_ID"], "secret": KEYS["AWS_SECRET_ACCESS_KEY"]}
    options = {**keys, "endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    call([sys.executable, "-c", save], env={"OPTIONS": json.dumps(options)})
    without = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    call(command("pull", f"{bucket}/two", tmp_path / "whole", "--secret", "of-the-store"), env=without)
    found = differences(tmp_path / "whole", on_one_machine)
    # the last checkpoint is the training's artifact; those on the way to it stay on the machine that trained
    assert [line for line in found if not line.startswith("only one has checkpoints/")] == ONLY_THE_SETTINGS
    assert (tmp_path / "whole" / ledger.read(run_dir, "train")["artifact"][0]).is_file()
    secret = KEYS["AWS_SECRET_ACCESS_KEY"].encode()
    places = (Path(os.environ["PREFECT_HOME"]), run_dir, tmp_path / "whole")
    assert not [path for place in places for path in place.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert secret.decode() not in said


def test_killed_in_the_middle_of_an_upload_and_done_from_an_empty_folder(few, bucket, videos, tmp_path):
    sets = [*SHARDS, "runner.workers=1", f"runner.store={bucket}/killed"]
    arguments = run_command(videos, tmp_path / "killed", *only("source", "face_crop"), sets=sets)
    wire, there = Wire(os.environ["AWS_ENDPOINT_URL"], b"/killed/files/clips/second"), fsspec.filesystem("s3")
    with wire, running(arguments, AWS_ENDPOINT_URL=wire.url) as process:
        wait_until(wire.caught.is_set, process)
        wait_until(lambda: there.exists("bucket/killed/ledger/face_crop/part-00001.parquet"), process)  # the first clip
        process.send_signal(signal.SIGKILL)
        process.wait(30)

    # what was put whole is believed, until somebody reads it
    (name,) = there.glob("bucket/killed/files/clips/first*.mp4.*")
    there.pipe_file(name, b"\0" * there.info(name)["size"])
    call(run_command(videos, tmp_path / "again", *only(*FEW), sets=sets))
    again = {stage: ledger.read(tmp_path / "again", stage).set_index("source") for stage in FEW}
    assert again["source"]["reused"].all()
    assert again["face_crop"]["reused"].to_dict() == {NO_FACE: True, "first.mp4": True, "second.mp4": False}
    assert again["quality"]["reason"].to_dict() == {"first.mp4": "store_damaged", "second.mp4": ""}

    call(run_command(videos, tmp_path / "new", *only(*FEW), sets=sets))
    call(command("pull", f"{bucket}/killed", tmp_path / "whole"))
    assert differences(tmp_path / "whole", few) == ONLY_THE_SETTINGS


@contextlib.contextmanager
def running(arguments: list[str], **environment: str):
    """A command that runs beside the test, and never longer."""
    process = subprocess.Popen(
        arguments,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def wait_until(condition, process: subprocess.Popen) -> None:
    def come() -> bool:
        assert process.poll() is None, "the run ended before the moment came"
        return condition()

    until(come, "the moment", seconds=300, every=0.2)
