"""SIGKILL at random moments.

The short form, which CI runs, kills the engine and its workers; `tests/flows/test_killed.py` kills the real chain, training
included, and `test_runs.py` the server. The long form is `make faults KILLS=100`: as many kills of the engine, as many in
the real chain (a pool worker, the flow, the server, all at once, a Prefect worker), and as many in a chain of light stages,
where more of the moments fall into engine, ledger and Prefect. `SEED=…` makes the same choices again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from random import Random
from shutil import rmtree

import pytest
from chain import ROOT, call, command
from faults import DEADLINE_S, Monkey, environment, family, kill, light_run, run_of, until, workers_of
from faulty_stage import assert_same, bring_up_to_date

TARGETS = ["pool worker", "flow", "the server", "everything"]
KILLS = int(os.environ.get("KILLS") or 0)
SEED = int(os.environ.get("SEED") or secrets.randbelow(10**6))


ENGINE = (
    "import sys; from pathlib import Path; from tasks import shard; import faulty_stage\n"
    "shard.SAVE_EVERY_S = 0.05\nfaulty_stage.bring_up_to_date(Path(sys.argv[1]))"
)


@pytest.mark.timeout(900 + 100 * KILLS)
def test_the_engine_killed_while_it_works(untroubled, tmp_path):
    """Without Prefect, which takes most of the time of a kill: the process, one of its workers, or all of them."""
    random, run_dir, kills, completed = Random(SEED), tmp_path / "run", KILLS or 6, 0
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        process = subprocess.Popen([sys.executable, "-c", ENGINE, str(run_dir)], env=environment(PYTHONPATH=path))
        work = run_dir / "out"
        seen = [work.stat().st_mtime_ns if work.exists() else None]
        until(lambda: process.poll() is not None or (work.exists() and work.stat().st_mtime_ns not in seen), "work")  # noqa: B023
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0, 1.5))
        target = random.choice(["the process", "a worker", "all of them"])
        alive = family(process.pid)
        hit = {"the process": alive[:1], "a worker": workers_of(process.pid)[:1], "all of them": alive}[target]
        if process.poll() is None and kill(hit):
            killed[target] += 1
            print(f"[seed {SEED}] engine {killed.total()}/{kills}: killed {target}", flush=True)
        if process.wait(DEADLINE_S) == 0:
            assert_same(run_dir, untroubled)
            rmtree(run_dir)
            completed += 1
        else:
            assert process.returncode == -9
    bring_up_to_date(run_dir)
    assert_same(run_dir, untroubled)
    print(f"seed {SEED}: {dict(killed)}; {completed} runs came to their end in between")


def torment(monkey: Monkey, targets: list[str], kills: int) -> None:
    monkey.torment(targets, kills)
    assert sum("killed" in line for line in monkey.log) == kills
    print(f"seed {monkey.seed}: {kills} kills; runs that were left to end: {dict(monkey.ends)}")


if KILLS:

    @pytest.mark.timeout(900 + 200 * KILLS)
    def test_whatever_is_killed_the_next_run_ends_as_if_nothing_had_been(
        mortal_server, undisturbed, tiny_videos, tmp_path
    ):
        call(command("deploy"))
        monkey = Monkey(mortal_server, tiny_videos, undisturbed[0], tmp_path / "run", undisturbed[1], SEED, run_of)
        torment(monkey, [*TARGETS, "prefect worker"], KILLS)

    @pytest.mark.timeout(900 + 200 * KILLS)
    def test_the_same_of_light_stages(mortal_server, tiny_videos, tmp_path):
        begun = time.monotonic()
        call(light_run(tiny_videos, tmp_path / "undisturbed" / "run"))
        lasts = time.monotonic() - begun
        folders = tmp_path / "undisturbed" / "run", tmp_path / "run"
        torment(Monkey(mortal_server, tiny_videos, *folders, lasts, SEED, light_run), TARGETS, KILLS)
