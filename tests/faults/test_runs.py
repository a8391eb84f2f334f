"""Whole runs whose folder is on a full or read-only disk or wanted twice, or whose server goes and stays away or comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from chain import ROOT, call, command, differences
from faults import DEADLINE_S, environment, run_of, until

OUTAGE_S = float(os.environ.get("OUTAGE_S") or 0)

READ_ONLY = """
mount -t tmpfs -o size=64m tmpfs "$1" || exit 9
cp -a "$2" "$1/run"; mount -o remount,ro "$1"; shift 2
"$@"; echo "run ended with $?"
$STATUS; echo "status ended with $?"
$VERIFY; echo "verify ended with $?"
"""


FULL = """
mount -t tmpfs -o size="$ROOM" tmpfs "$1" || exit 9
disk=$1 copy=$2; shift 2
"$@"; echo "first run ended with $?"
mount -o remount,size=64m "$disk"
"$@"; echo "second run ended with $?"
cp -a "$disk/run" "$copy"
"""


def alone(script: str, *arguments: object, env: dict[str, str]) -> str:
    """What a shell script says that mounts what nobody else sees."""
    own = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    return call([*own, *map(str, arguments)], env=env)


def test_a_full_disk_is_said_and_nothing_is_lost(undisturbed, tiny_videos, tmp_path):
    (tmp_path / "disk").mkdir()
    wanted = sum(file.lstat().st_blocks * 512 for file in undisturbed[0].rglob("*"))
    arguments = run_of(tiny_videos, tmp_path / "disk" / "run")
    said = alone(FULL, tmp_path / "disk", tmp_path / "copy", *arguments, env={"ROOM": str(wanted // 2)})
    assert "first run ended with 2" in said
    assert "free some space and run again" in said
    assert "second run ended with 0" in said
    assert differences(tmp_path / "copy", undisturbed[0]) == []


def test_a_read_only_folder_is_said_and_can_still_be_asked(undisturbed, tiny_videos, tmp_path):
    (tmp_path / "disk").mkdir()
    run_dir = tmp_path / "disk" / "run"
    asked = {what.upper(): " ".join(command(what, run_dir)) for what in ("status", "verify")}
    arguments = [tmp_path / "disk", undisturbed[0], *run_of(tiny_videos, run_dir, "--force")]
    said = alone(READ_ONLY, *arguments, env=asked)
    assert "run ended with 2" in said
    assert "Read-only file system" in said
    assert "status ended with 0" in said
    assert "0 damaged files" in said
    assert "verify ended with 0" in said


if os.environ.get("KILLS"):  # CI has `test_two_runs_of_one_folder_do_not_mix`

    def test_of_two_runs_started_together_one_works_and_nothing_doubles(undisturbed, tiny_videos, tmp_path):
        run_dir = tmp_path / "run"
        shutil.copytree(undisturbed[0], run_dir)
        shutil.rmtree(run_dir / "ledger" / "metadata")
        arguments = run_of(tiny_videos, run_dir)
        both = [
            subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=DEADLINE_S)[1] for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) in ([0, 0], [0, 2]), said  # the second stops, or came when the first had ended
        assert codes[0] == codes[1] or "in use by process" in said[codes.index(2)]
        assert differences(run_dir, undisturbed[0]) == []


def start_and_lose_the_server(server, arguments, run_dir, **settings) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(**settings)
    )
    crops = run_dir / "clips"
    until(lambda: (crops.is_dir() and any(crops.iterdir())) or process.poll() is not None, "the face crop began")
    assert process.poll() is None, process.communicate()[1]
    server.kill()
    return process


def test_a_server_that_stays_away_ends_the_run_with_a_sentence_and_costs_nothing(
    mortal_server, undisturbed, tiny_videos, tmp_path
):
    arguments = run_of(tiny_videos, tmp_path / "run")
    impatient = {"DUALFORCE_SERVER_PATIENCE_S": "1", "PREFECT_CLIENT_MAX_RETRIES": "1"}
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
