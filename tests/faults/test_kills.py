"""SIGKILL at random moments: a pool worker, the flow, the server, all at once; in the long form a Prefect worker too.

The short form, which CI runs, kills each once in the real chain. The long form is `make faults KILLS=100`: as many kills
in the real chain, and as many in a chain of light stages, where more of the moments fall into engine, ledger and Prefect.
`SEED=…` makes the same choices again.
"""

from __future__ import annotations

import os
import secrets
import time

import pytest
from chain import call, command
from faults import Monkey, light_run, run_of

SHORT = ["pool worker", "flow", "the server", "everything"]
KILLS = int(os.environ.get("KILLS") or 0)
SEED = int(os.environ.get("SEED") or secrets.randbelow(10**6))


def torment(monkey: Monkey, targets: list[str], kills: int) -> None:
    monkey.torment(targets, kills)
    assert sum("killed" in line for line in monkey.log) == kills
    print(f"seed {monkey.seed}: {kills} kills; runs that were left to end: {dict(monkey.ends)}")


@pytest.mark.timeout(900 + 200 * KILLS)
def test_whatever_is_killed_the_next_run_ends_as_if_nothing_had_been(mortal_server, undisturbed, tiny_videos, tmp_path):
    if KILLS:
        call(command("deploy"))
    monkey = Monkey(mortal_server, tiny_videos, undisturbed[0], tmp_path / "run", undisturbed[1], SEED, run_of)
    torment(monkey, [*SHORT, "prefect worker"] if KILLS else SHORT, KILLS or len(SHORT))


if KILLS:

    @pytest.mark.timeout(900 + 200 * KILLS)
    def test_the_same_of_light_stages(mortal_server, tiny_videos, tmp_path):
        begun = time.monotonic()
        call(light_run(tiny_videos, tmp_path / "undisturbed" / "run"))
        lasts = time.monotonic() - begun
        folders = tmp_path / "undisturbed" / "run", tmp_path / "run"
        torment(Monkey(mortal_server, tiny_videos, *folders, lasts, SEED, light_run), SHORT, KILLS)
