"""Bad input becomes rows with reasons; what stops a run is one clear sentence; no source file is ever touched."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from chain import ROOT, call, command, run_command, status

GOOD = "good_hdtf_may_512_25.mp4"
DATA_STAGES = [part for stage in ("source", "face_crop", "quality") for part in ("--only", stage)]
ODD_NAMES = ("with space.mp4", 'it\'s "quoted".mp4', "🎬 ünï.mp4", "new\nline.mp4", "-rf.mp4", "$(touch pwned).mp4")


@pytest.fixture
def trouble(tmp_path, shared_data) -> Path:
    """A folder as the world makes them."""
    clips, folder = shared_data / "clips", tmp_path / "trouble"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    short = clips / "bad_noface_7frames_2fps.mp4"
    for name in ODD_NAMES:
        shutil.copy(short, folder / name)
    for sub in "ab":
        shutil.copy(short, folder / sub / "same.mp4")
    shutil.copy(clips / GOOD, folder / GOOD)
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 100)
    whole = (clips / GOOD).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "a" / "up").symlink_to("..")
    (folder / "notes.txt").write_text("no video, and not taken for one")
    return folder


def state(folder: Path) -> dict[str, tuple]:
    return {
        str(p.relative_to(folder)): (p.lstat().st_mtime_ns, p.lstat().st_mode, p.read_bytes() if p.is_file() else None)
        for p in sorted(folder.rglob("*"))
        if "up" not in p.parts[:-1] and p.name != "loop.mp4"
    }


def test_each_trouble_is_a_row_and_the_rest_is_unharmed(trouble, tmp_path, prefect_server):
    before = state(trouble)
    call(run_command(trouble, tmp_path / "run", *DATA_STAGES))
    found = {clip["source"]: (clip["status"], clip["reason"]) for clip in status(tmp_path / "run")["clips"]}
    assert found.pop(GOOD)[0] == "accepted"
    assert found.pop("zero.mp4") == ("failed", "empty_file")
    assert found.pop("text.mp4") == ("failed", "not_a_video")
    assert found.pop("cut.mp4") == ("failed", "truncated")
    assert found.pop("loop.mp4") == ("failed", "symlink_loop")
    assert set(found) == {*ODD_NAMES, "a/same.mp4", "b/same.mp4"}
    assert set(found.values()) == {("rejected", "no_face")}
    assert state(trouble) == before
    assert not (ROOT / "pwned").exists()


def test_a_file_that_may_not_be_read(tmp_path, shared_data, prefect_server):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("closed.mp4", "open.mp4"):
        shutil.copy(shared_data / "clips" / "bad_noface_7frames_2fps.mp4", folder / name)
    (folder / "closed.mp4").chmod(0)

    def as_an_ordinary_user() -> None:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read everything
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; no effect (and no need) for others than root

    done = subprocess.run(
        run_command(folder, tmp_path / "run", *DATA_STAGES),
        cwd=ROOT,
        preexec_fn=as_an_ordinary_user,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {clip["source"]: (clip["status"], clip["reason"]) for clip in status(tmp_path / "run")["clips"]}
    assert found == {"closed.mp4": ("failed", "no_permission"), "open.mp4": ("rejected", "no_face")}
    assert oct((folder / "closed.mp4").stat().st_mode & 0o777) == "0o0"


def test_the_command_line_explains_itself(tmp_path):
    assert "refilter" in call(command("--help"))
    assert "Example" in call(command("run", "--help"))
    assert "no run folder" in call(command("status", tmp_path), code=2)
    (tmp_path / "mine.txt").write_text("somebody's file")
    assert "not a run folder" in call(command("run", "demo", "--input", tmp_path, "--run-dir", tmp_path), code=2)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
