"""The run folder itself: on a disk that may only be read, and wanted by two runs at once."""

from __future__ import annotations

import os
import shutil
import subprocess

from chain import ROOT, call, command, differences
from faults import DEADLINE_S, run_of

READ_ONLY = """
mount -t tmpfs -o size=64m tmpfs "$1" || exit 9
cp -a "$2" "$1/run"; mount -o remount,ro "$1"; shift 2
"$@"; echo "run ended with $?"
$STATUS; echo "status ended with $?"
$VERIFY; echo "verify ended with $?"
"""


def test_a_read_only_folder_is_said_and_can_still_be_asked(undisturbed, tiny_videos, tmp_path):
    (tmp_path / "disk").mkdir()
    run_dir = tmp_path / "disk" / "run"
    asked = {what.upper(): " ".join(command(what, run_dir)) for what in ("status", "verify")}
    arguments = [str(tmp_path / "disk"), str(undisturbed[0]), *run_of(tiny_videos, run_dir, "--force")]
    said = call(["unshare", "--mount", "--map-root-user", "sh", "-c", READ_ONLY, "sh", *arguments], env=asked)
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
