"""The Prefect server goes away in the middle of a run and stays away, or comes back."""

from __future__ import annotations

import os
import subprocess
import time

from chain import ROOT, call, differences
from faults import DEADLINE_S, environment, run_of, until

OUTAGE_S = float(os.environ.get("OUTAGE_S") or 0)


def start_and_lose_the_server(server, arguments, run_dir, **settings) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(**settings)
    )
    crops = run_dir / "clips"
    until(lambda: (crops.is_dir() and any(crops.iterdir())) or process.poll() is not None, "the face crop began")
    assert process.poll() is None
    server.kill()
    return process


def test_a_server_that_stays_away_ends_the_run_with_a_sentence_and_costs_nothing(
    mortal_server, undisturbed, tiny_videos, tmp_path
):
    arguments = run_of(tiny_videos, tmp_path / "run")
    impatient = {"DUALFORCE_SERVER_PATIENCE_S": "1", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    process = start_and_lose_the_server(mortal_server, arguments, tmp_path / "run", **impatient)
    _, said = process.communicate(timeout=DEADLINE_S)
    mortal_server.start()
    assert process.returncode == 2, said
    assert "does not answer" in said
    assert "run the same command again" in said
    call(arguments)
    assert differences(tmp_path / "run", undisturbed[0]) == []


if OUTAGE_S:

    def test_a_server_that_comes_back_finds_the_run_waiting(mortal_server, undisturbed, tiny_videos, tmp_path):
        process = start_and_lose_the_server(mortal_server, run_of(tiny_videos, tmp_path / "run"), tmp_path / "run")
        time.sleep(OUTAGE_S)
        assert process.poll() is None, process.communicate()[1]
        mortal_server.start()
        _, said = process.communicate(timeout=DEADLINE_S + 2 * OUTAGE_S)
        assert process.returncode == 0, said
        assert differences(tmp_path / "run", undisturbed[0]) == []
