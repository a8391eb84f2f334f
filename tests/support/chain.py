"""Real runs for tests: the command line as a user calls it, a real Prefect server, and what to compare afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dualforce_model.store import ledger
from flows import server

ROOT = Path(__file__).resolve().parents[2]
# small enough for a test, but nothing is left out: every stage runs, training and generation too
SMALL = ["face_crop.size=128", "train.steps=6", "train.batch=2", "train.frames=3", "train.checkpoint_every=2"]
SMALL += ["generate.steps=2", "generate.seconds=1.0", f"runner.accelerate={ROOT}/infra/accelerate/single.yaml"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A real server on loopback with a database of its own in `home`; every command of the tests talks to it."""
    port = free_port()
    before = dict(os.environ)
    os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=server.url(port))
    process = server.start(port)
    try:
        yield server.url(port)
    finally:
        process.terminate()
        process.wait(30)
        os.environ.clear()
        os.environ.update(before)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *map(str, arguments)]


def run_command(
    clips: Path, run_dir: Path, *more: str | Path, config: str = "demo", sets: list[str] | None = None
) -> list[str]:
    pairs = [part for pair in (SMALL if sets is None else sets) for part in ("--set", pair)]
    return command("run", config, "--input", clips, "--run-dir", run_dir, *pairs, *more)


def call(arguments: list[str], code: int = 0, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a command to its end; its output. Fails when the exit code is another."""
    done = subprocess.run(
        arguments,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def status(run_dir: Path) -> dict:
    return json.loads(call(command("status", run_dir, "--json")))


def reused(run_dir: Path) -> dict[str, tuple[int, int]]:
    """Per stage: how many rows were reused, of how many."""
    return {
        stage: (row["reused"], row["accepted"] + row["rejected"] + row["failed"])
        for stage, row in status(run_dir)["stages"].items()
    }


def ledgers(run_dir: Path) -> dict[str, list[dict]]:
    """All ledgers without what two runs over the same input may differ in."""
    out = {}
    for stage in ledger.stages(run_dir):
        rows = ledger.read(run_dir, stage).drop(columns=list(ledger.VOLATILE))
        records = json.loads(rows.to_json(orient="records"))
        out[stage] = json.loads(json.dumps(records).replace(str(run_dir), "RUN"))
    return out


def differences(ours: Path, theirs: Path) -> list[str]:
    """What two runs over the same input differ in, line by line; empty when they are equal as promised."""
    mine, other = ledgers(ours), ledgers(theirs)
    found = [f"only one has the ledger {stage}" for stage in mine.keys() ^ other.keys()]
    for stage in mine.keys() & other.keys():
        if len(mine[stage]) != len(other[stage]):
            found.append(f"{stage}: {len(mine[stage])} rows and {len(other[stage])}")
        for a, b in zip(mine[stage], other[stage], strict=False):
            found += [f"{stage} {a['clip_id']} {key}: {a[key]} / {b[key]}" for key in a if a[key] != b[key]]
    files, others = artifacts(ours), artifacts(theirs)
    found += [f"only one has {name}" for name in files.keys() ^ others.keys()]
    return found + [f"{name} differs" for name in files.keys() & others.keys() if files[name] != others[name]]


def artifacts(run_dir: Path) -> dict[str, bytes]:
    """Every file that the run made, by name, except what tells of the making."""
    apart = ("ledger", "report")
    return {
        str(p.relative_to(run_dir)): p.read_bytes()
        for p in sorted(run_dir.rglob("*"))
        if p.is_file()
        and p.relative_to(run_dir).parts[0] not in apart
        and not p.name.startswith((".lock", "log.jsonl", "events.out"))
    }


SHARED_CLIPS = (
    "good_hdtf_may_512_25.mp4",
    "good_retalk1_700_30.mp4",
    "silent_lp_d19_480_30.mp4",
    "bad_noface_7frames_2fps.mp4",
)
