"""`dualforce weights list|fetch|verify`."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dualforce_model.weights import WEIGHTS
from dualforce_model.weights.registry import File, Weights
from flows.weights import app

ABC = hashlib.sha256(b"abc").hexdigest()


def command(*words):
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture
def mine(server, root, register):
    server.files |= {"/x/a": b"abc", "/x/b": b"abc"}
    files = (File("a", 3, ABC), File("b"))
    return register(Weights("mine", "test", f"{server.url}/x", "1", files, "My licence", "for me alone"))


def test_the_licence_is_said_before_the_first_request(server, mine, capsys):
    heard = []
    server.on_request = lambda: heard.append(capsys.readouterr().out)
    app(["fetch", "mine"], standalone_mode=False)
    assert "licence: My licence; for me alone" in heard[0]
    assert len(heard) == 2


def test_list(mine, root):
    code, said = command("list", "--json")
    rows = {row["name"]: row for row in json.loads(said)}
    assert code == 0
    assert set(rows) == set(WEIGHTS)
    unknown = {"path": "b", "size": None, "sha256": None, "pinned": False}
    assert rows["mine"]["files"] == [{"path": "a", "size": 3, "sha256": ABC, "pinned": False}, unknown]
    assert (rows["mine"]["licence"], rows["mine"]["restriction"]) == ("My licence", "for me alone")
    assert (rows["mine"]["missing"], rows["mine"]["folder"]) == (["a", "b"], str(root / "mine"))
    assert command("fetch", "mine")[0] == 0
    [row] = [row for row in json.loads(command("list", "--json")[1]) if row["name"] == "mine"]
    assert row["files"] == [{"path": path, "size": 3, "sha256": ABC, "pinned": True} for path in "ab"]
    assert row["missing"] == []
    code, said = command("list")
    assert code == 0
    assert "mine" in said


def test_verify_tells_good_from_wrong(mine, root):
    assert command("verify") == (0, f"no weights are in {root}; see `dualforce weights list`\n")
    command("fetch", "mine")
    assert command("verify") == (0, "good   mine: 2 files, 0.0 MiB\n")
    (root / "mine" / "b").write_bytes(b"xyz")
    code, said = command("verify")
    assert code == 1
    assert said.startswith("wrong  mine: ")
    assert "b has sha256" in said
    code, said = command("verify", "minne")
    assert code == 1
    assert "did you mean 'mine'?" in said


@pytest.mark.parametrize("lost", ["b", "folder", "link"])
def test_verify_finds_what_a_copy_lacks(mine, root, lost):
    command("fetch", "mine")
    if lost == "folder":
        (root / "mine").rename(root / "elsewhere")
    elif lost == "link":
        (root / "mine.pins.json").unlink()
        (root / "mine").rename(root / "elsewhere")
        (root / "mine").symlink_to(root / "nowhere")
    else:
        (root / "mine.pins.json").unlink()
        (root / "mine" / "b").unlink()
    code, said = command("verify")
    assert code == 1
    assert said.startswith("lacks  mine: ")
    assert f"{'b' if lost == 'b' else 'a, b'} missing): run `dualforce weights fetch mine`" in said


def test_the_whole_command_against_a_mirror_of_the_hub(server, root):
    folder = "/KlingTeam/LivePortrait/resolve"
    server.files[f"{folder}/c0ffee/liveportrait/base_models/motion_extractor.pth"] = b"abc"
    server.branches[f"{folder}/main/"] = f"{folder}/c0ffee/"

    def dualforce(*words):
        line = [sys.executable, "-c", "from flows.cli import main; main()", "weights", *words]
        return subprocess.run(line, env=os.environ | {"HF_ENDPOINT": server.url}, capture_output=True, text=True)

    done = dualforce("fetch", "liveportrait")
    assert (done.returncode, done.stderr) == (0, "")
    assert "licence: MIT" in done.stdout
    done = dualforce("verify")
    assert (done.returncode, done.stdout) == (0, "good   liveportrait: 1 files, 0.0 MiB\n")
    done = dualforce("fetch", "deca")
    assert done.returncode == 2
    assert "get deca_model.tar by the link" in done.stderr
