"""SIGKILL at random moments: a pool worker, the flow, the server, all at once; in the long form a Prefect worker too.

The short form, which CI runs, kills each once. The long form: `make faults KILLS=100`; `SEED=…` makes the same choices.
"""

from __future__ import annotations

import os
import secrets

import pytest
from chain import call, command
from faults import Monkey

SHORT = ["pool worker", "flow", "the server", "everything"]
KILLS = int(os.environ.get("KILLS") or len(SHORT))


@pytest.mark.timeout(900 + 120 * KILLS)
def test_whatever_is_killed_the_next_run_ends_as_if_nothing_had_been(mortal_server, undisturbed, tiny_videos, tmp_path):
    finished, seconds = undisturbed
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**6))
    targets = [*SHORT]
    if len(SHORT) < KILLS:
        targets.append("prefect worker")
        call(command("deploy"))
    monkey = Monkey(mortal_server, tiny_videos, finished, tmp_path / "run", seconds, seed)
    monkey.torment(targets, KILLS)
    assert sum("killed" in line for line in monkey.log) == KILLS
    print(f"seed {seed}: {KILLS} kills; runs that were left to end: {dict(monkey.ends)}")
