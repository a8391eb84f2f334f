"""`dualforce bench`: figures of this machine as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from flows import server
from flows.settings import prepare

SHARDS = 12  # of the stage without work
SHARD_S = 120.0  # what a shard of a real stage takes
CALL = "import json, sys; from pathlib import Path; from flows import bench; print(json.dumps(bench.{}(Path(sys.argv[1]))))"

app = typer.Typer(help="Measure this machine; each prints JSON.", no_args_is_help=True)


@app.command("data")
def bench_data(
    input_dir: Annotated[Path, typer.Option("--input", help="Folder with videos.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (the only format).")] = True,
    set_: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = [],  # noqa: B006
) -> None:
    """Time stages 2 to 5 (face crop to metadata) on a folder of videos, in a run folder of its own."""
    print(json.dumps(data(input_dir, set_), indent=1))


@app.command("rerun")
def bench_rerun(
    clips: Annotated[int, typer.Option(min=1, help="Accepted clips; each takes about 70 kB on the disk.")] = 50_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (the only format).")] = True,
) -> None:
    """Time a rerun with nothing to do, from source to metadata, over a made-up run folder; queries and overhead too."""
    print(json.dumps(rerun(clips, Console(stderr=True).print), indent=1))


def data(input_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Time stages 2 to 5 with the default (512 px, embedded) configuration in a temporary run folder."""
    from tasks.bench import measure

    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as folder:
        return measure(prepare("local", f"{folder}/run", str(input_dir), overrides))


def rerun(clips: int, tell: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Time a rerun with nothing to do over `clips` accepted clips: all stages from source to metadata, a real server.

    Reruns, queries of the ledger and the overhead (see the functions below) are measured in processes of their own that
    read nothing before. The first rerun follows the work; for the second not even a row says something new.
    """
    from tasks.synthetic import CHAIN, make

    with tempfile.TemporaryDirectory(prefix="dualforce-bench-") as name:
        folder, begun = Path(name), time.monotonic()
        run = make(folder, clips, tell)
        found: dict[str, Any] = {"clips": clips, "stages": list(CHAIN), "cores": len(os.sched_getaffinity(0))}
        found["made_seconds"] = round(time.monotonic() - begun, 1)
        found["files"] = sum(len(names) for _, _, names in os.walk(folder))
        found["ledger_mib"] = _mib(run.dir / "ledger")
        for variable in ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
            os.environ.pop(variable, None)
        home, port = folder / "server", _free_port()
        os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=server.url(port))
        # the server's own words are kept out of what is printed here
        up = [sys.executable, "-m", "flows.cli", "up", "--port", str(port)]
        process = subprocess.Popen(up, stdout=subprocess.DEVNULL, cwd=server.ROOT)
        try:
            while not server.healthy(server.url(port)):
                if process.poll() is not None:
                    raise RuntimeError(f"the Prefect server ended with code {process.returncode}")
                time.sleep(0.2)
            command = [sys.executable, "-m", "flows.cli", "run", str(run.dir)]
            command += [part for stage in CHAIN for part in ("--only", stage)]
            empty = _mib(home)
            for what in ("first_rerun", "second_rerun"):
                tell(what)
                found[what] = _watched(command, process.pid) | {"rows_not_reused": _not_reused(run.dir)}
            tell("queries")
            found["queries_seconds"] = _called("queries", run.dir)
            found["server_database_mib"] = round(_mib(home) - empty, 1)
            tell("overhead")
            found["overhead"] = _called("overhead", folder / "nothing")
        finally:
            process.terminate()
            process.wait()
        return found


def queries(run_dir: Path) -> dict[str, float]:
    """Seconds of what people ask of a ledger: counts of all stages, where each clip stands, one clip, one stage's reasons."""
    from dualforce_model.store import ledger
    from tasks import status

    stage = ledger.table(run_dir, "quality", ("clip_id",))
    clip_id = stage["clip_id"][stage.num_rows // 2].as_py()
    asked: dict[str, Callable[[], Any]] = {
        "counts": lambda: status.counts(run_dir),
        "status": lambda: status.status(run_dir),
        "one_clip": lambda: status.clip(run_dir, clip_id),
        "reasons": lambda: status.reasons(run_dir, "quality"),
    }
    found = {}
    for name, ask in asked.items():
        begun = time.monotonic()
        ask()
        found[name] = round(time.monotonic() - begun, 3)
    return found


def overhead(run_dir: Path) -> dict[str, float]:
    """What a full shard costs beside its work: engine, worker processes (started before), Prefect, ledger.

    Measured as a stage whose items are no work, on the running server.
    """
    server.configure()
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    from tasks.run import create
    from tasks.run_stage import run_stage
    from tasks.stage import Stage
    from tasks.stages import STAGES
    from tasks.synthetic import idle, idle_items

    run = create(run_dir, prepare("local", str(run_dir)).config)
    size = run.config.runner.shard_size
    runner: Any = ThreadPoolTaskRunner(max_workers=2)

    @flow(name="overhead", task_runner=runner, persist_result=False)
    def measured(shards: int) -> tuple[float, float]:
        STAGES["idle"] = Stage("idle", "", lambda run: idle_items(shards * size), idle)
        begun, used = time.monotonic(), sum(os.times()[:4])
        run_stage(run, "idle", force=True)
        return time.monotonic() - begun, sum(os.times()[:4]) - used

    measured(1)  # starts the workers
    wall, cpu = measured(SHARDS)
    return {
        "shards": SHARDS,
        "items_per_shard": size,
        "seconds_per_shard": round(wall / SHARDS, 3),
        "cpu_seconds_per_shard": round(cpu / SHARDS, 3),
        "percent_of_two_minutes": round(100 * wall / SHARDS / SHARD_S, 2),
    }


def _called(function: str, folder: Path) -> Any:
    """The result of one of the functions above in a process of its own."""
    command = [sys.executable, "-c", CALL.format(function), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=server.ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def _watched(command: list[str], server_pid: int) -> dict[str, float]:
    """Wall and processor seconds of a command, and the most memory that it and the server held at one time."""
    begun, before = time.monotonic(), os.times()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=server.ROOT)
    peak = own = 0.0
    while process.poll() is None:
        mine, theirs = _rss_mib(process.pid), _rss_mib(server_pid)
        peak, own = max(peak, mine + theirs), max(own, mine)
        time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    return {
        "wall_seconds": round(time.monotonic() - begun, 2),
        "cpu_seconds": round(after[2] + after[3] - before[2] - before[3], 2),
        "peak_mib": round(peak),
        "peak_mib_without_server": round(own),
    }


def _rss_mib(pid: int) -> float:
    """Resident memory of a process and all that descend from it."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total / 2**20


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((server.HOST, 0))
        return int(found.getsockname()[1])


def _mib(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)


def _not_reused(run_dir: Path) -> int:
    from dualforce_model.store import ledger

    return sum(
        ledger.table(run_dir, stage, ("reused",))["reused"].to_pylist().count(False) for stage in ledger.stages(run_dir)
    )
