"""A Prefect server as its dashboard sees it: the HTTP API, workers of the pools, and waiting for what has to come."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import waiting
from chain import ROOT, call, command

until = partial(waiting.until, seconds=180, every=0.2)  # each look asks the server


class Dashboard:
    """`api` is the server's address, with /api."""

    def __init__(self, api: str):
        self.api = api

    def ask(self, path: str, body: Any = None) -> Any:
        """GET, or POST with a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"content-type": "application/json"})
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > end:  # busy: on SQLite one writes at a time
                    raise
                time.sleep(0.5)

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment as its form does; the run's id."""
        there = self.ask(f"deployments/name/{deployment}")["id"]
        return self.ask(f"deployments/{there}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, run: str) -> str:
        return self.ask(f"flow_runs/{run}")["state_name"]

    def runs(self, **having: Any) -> list[dict]:
        """Flow runs by a filter of the API."""
        return self.ask("flow_runs/filter", {"flow_runs": having, "limit": 200})

    def set_state(self, run: str, kind: str, name: str) -> str:
        """What the buttons Cancel and Retry do; whether the server accepted it."""
        body = {"state": {"type": kind, "name": name}}
        return self.ask(f"flow_runs/{run}/set_state", body)["status"]

    def retry(self, run: str) -> None:
        """The button Retry, pressed again where the worker reports the process that ended only afterwards."""

        def taken() -> bool:
            state = self.state(run)
            if state in ("Cancelled", "Crashed", "Failed"):
                assert self.set_state(run, "SCHEDULED", "AwaitingRetry") == "ACCEPT"
            return state in ("Pending", "Submitting", "Running")

        until(taken, "a worker that takes the run")

    def logs(self, run: str) -> list[str]:
        wanted = {"flow_run_id": {"any_": [run]}}
        return [line["message"] for line in self.ask("logs/filter", {"logs": wanted, "limit": 200})]

    def artifacts(self, run: str) -> dict[str, dict]:
        """By key, of a run and not of those inside it."""
        wanted = {"flow_run_id": {"any_": [run]}}
        return {found["key"]: found for found in self.ask("artifacts/filter", {"artifacts": wanted})}


@contextlib.contextmanager
def worker(pool: str) -> Iterator[subprocess.Popen]:
    """A worker as `dualforce worker` starts it, ended with the block if it is still there."""
    process = subprocess.Popen(
        command("worker", "--pool", pool),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that a test can kill all of it at once
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def deployment_run(name: str, **parameters: Any) -> None:
    """`prefect deployment run` to its end, which has to be a good one."""
    pairs = [part for key, value in parameters.items() for part in ("--param", f"{key}={json.dumps(value)}")]
    call([sys.executable, "-m", "prefect", "deployment", "run", name, *pairs, "--watch"])


def processes_of(word: str | Path) -> list[int]:
    """Ids of other processes that have `word` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(word).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]
