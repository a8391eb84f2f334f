from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dualforce_model import store


def test_identity_depends_on_content_not_on_order():
    assert store.identity(a=1, b=[2, "x"]) == store.identity(b=[2, "x"], a=1)
    assert len({store.identity(a=1), store.identity(a=2), store.identity(b=1), store.identity(a="1")}) == 4
    with pytest.raises(ValueError):
        store.identity(a=float("nan"))


def test_same_tensors_same_bytes_and_intact(tmp_path):
    tensors = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.array([True, False])}
    provenance = {"identity": "i1", "version": 3, "config": {"z": 1, "a": 2}}
    store.write_tensors(tmp_path / "x.safetensors", tensors, provenance)
    store.write_tensors(tmp_path / "y.safetensors", dict(reversed(tensors.items())), provenance)
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    assert store.intact(tmp_path / "x.safetensors", "i1")
    assert not store.intact(tmp_path / "x.safetensors", "i2")
    assert store.read_provenance(tmp_path / "x.safetensors")["config"] == {"z": 1, "a": 2}
    assert all(np.array_equal(v, tensors[k]) for k, v in store.read_tensors(tmp_path / "x.safetensors").items())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "gone"])
def test_damage_is_seen(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    store.write_tensors(path, {"a": np.arange(100.0)}, {"identity": "i"})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    elif damage == "cut":
        data = data[:-8]
    elif damage == "empty":
        data = bytearray()
    elif damage == "text":
        data = bytearray(b"not a tensor file")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data)
    assert not store.intact(path, "i")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    store.write_json(path, {"x": 1})
    with pytest.raises(RuntimeError), store.publish(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == '{\n "x": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_publishes_nothing_and_its_leftover_is_swept(tmp_path):
    code = (
        "import os, sys, signal\nfrom pathlib import Path\nfrom dualforce_model import store\n"
        "with store.publish(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "deep" / "clip.mp4"
    killed = subprocess.Popen([sys.executable, "-c", code, str(path)])
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # killed, but its number is not free yet
    assert not path.exists()
    (leftover,) = path.parent.iterdir()
    elsewhere = path.parent / ".partial-00000000-999999999-00-other.mp4"
    elsewhere.write_text("being written")
    namesake = path.parent / leftover.name.replace(f"-{killed.pid}-", f"-{os.getpid()}-")  # the number was given again
    namesake.write_text("half")
    with store.publish(path.parent / "other.mp4") as mine:
        mine.write_text("being written")
        assert store.sweep(tmp_path) == 2
        assert set(path.parent.iterdir()) == {mine, elsewhere}
    assert killed.wait() == -signal.SIGKILL
