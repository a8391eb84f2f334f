"""The command line in front of training: what is wrong is said before anything starts; how a process ends."""

import subprocess
import sys

import pytest

from dualforce_model.train.__main__ import main


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stepz=3", "unknown key 'stepz'; did you mean 'steps'"),
        ("optimiser.lrr=3", "unknown key 'optimiser.lrr'; did you mean 'optimiser.lr'"),
        ("steps=0", "steps must be at least 1, got 0"),
        ("batch=many", "batch: expected int"),
        ("noise={risin: 1}", "unknown key 'noise.risin'; did you mean 'rising'"),
        ("noise.risin=1", "unknown key 'noise.risin'; did you mean 'noise.rising'"),
        ("model={video.layerz: 3}", "unknown key 'video.layerz'; did you mean 'video.layers'"),
        ("losses.lip=0.3", "losses.lip is 0.3, but there is no scorer for the lip term"),
        ("preset=tinny", "unknown model preset 'tinny'; did you mean 'tiny'"),
    ],
)
def test_a_wrong_key_or_value_is_an_error_with_near_misses(run_folder, tmp_path, capsys, setting, message):
    assert main(["--data", str(run_folder), "--out", str(tmp_path / "out"), "--set", setting]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_dataset_is_an_error(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "run the metadata stage" in capsys.readouterr().err


def test_a_config_file_that_is_none_is_an_error(tmp_path, capsys):
    (tmp_path / "train.yaml").write_text("steps: [")
    assert main(["--config", str(tmp_path / "train.yaml"), "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "not valid YAML" in capsys.readouterr().err


LATE = """
import atexit, os, sys
from dualforce_model.train.__main__ import leave

class Late:
    def __del__(self, abort=os.abort):
        abort()

late = Late()  # lives until the interpreter is taken down
atexit.register(print, "closed")
print("done")
leave(int(sys.argv[1]))
"""


@pytest.mark.parametrize("code", [0, 75])
def test_what_happens_after_the_work_does_not_change_the_exit_code(code):
    ended = subprocess.run([sys.executable, "-c", LATE, str(code)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (code, ["done", "closed"])
