"""Sets of files: fetched, pinned, verified, named where they lie."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import pytest

from dualforce_model.weights import MissingWeightsError, WeightsError, digest, locate
from dualforce_model.weights.download import Patience
from dualforce_model.weights.fetch import fetch
from dualforce_model.weights.place import check, pins_of, read_pins, use_folder
from dualforce_model.weights.registry import WEIGHTS, File, Weights

PATIENCE = Patience(stall_s=0.3, tries=3, first_wait_s=0.0)


def test_a_set_is_fetched_pinned_and_verified(server, root, register, body):
    server.files |= {"/x/config.json": b"{}", "/x/sub/w.bin": body}
    server.troubles["/x/sub/w.bin"] = [503, ("truncate", 5)]
    register(Weights("t", "test", f"{server.url}/x", "1", (File("config.json"), File("sub/w.bin")), "MIT"))
    with pytest.raises(MissingWeightsError, match=r"dualforce weights fetch t"):
        locate("t")
    folder = fetch(WEIGHTS["t"], patience=PATIENCE)
    assert (folder / "sub/w.bin").read_bytes() == body
    before, asked = digest("t"), len(server.requests)
    assert fetch(WEIGHTS["t"], patience=PATIENCE) == folder
    assert len(server.requests) == asked
    (folder / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"config.json has sha256 .* pinned is"):
        digest("t")
    (folder / "config.json").unlink()
    server.files["/x/config.json"] = b"new"  # the pinned bytes are wanted, not what is there today
    with pytest.raises(WeightsError, match=r"other bytes"):
        fetch(WEIGHTS["t"], patience=PATIENCE)
    fetch(WEIGHTS["t"], again=True, patience=PATIENCE)
    assert digest("t") != before


def test_pins_outlive_a_fetch_that_fails(server, root, register):
    server.files |= {"/x/a": b"a", "/x/b": b"b"}
    folder = fetch(register(Weights("t", "test", f"{server.url}/x", "1", (File("a"), File("b")), "MIT")))
    (folder / "b").write_bytes(b"damaged")
    before = pins_of("t").read_bytes()
    server.troubles["/x/b"] = [404]
    with pytest.raises(WeightsError, match=r"404"):
        fetch(WEIGHTS["t"], again=True, patience=PATIENCE)
    assert pins_of("t").read_bytes() == before
    with pytest.raises(WeightsError, match=r"b has sha256 .* pinned is"):
        check("t", thorough=True)
    fetch(WEIGHTS["t"], again=True, patience=PATIENCE)
    assert (folder / "b").read_bytes() == b"b"


def test_pins_of_the_first_kind_are_read(server, root, register):
    server.files |= {"/x/a": b"a"}
    fetch(register(Weights("t", "test", f"{server.url}/x", "1", (File("a"),), "MIT")))
    pins = read_pins("t")
    pins_of("t").write_text(json.dumps(pins.files))
    assert read_pins("t") == pins
    pins_of("t").write_text('{"files": {}, "more": 1}')
    with pytest.raises(WeightsError, match=r"t.pins.json is damaged .*delete it and run `dualforce weights verify t`"):
        read_pins("t")


FETCH = """
import sys
from dualforce_model.weights.fetch import fetch
from dualforce_model.weights.registry import WEIGHTS, File, Weights
WEIGHTS["z"] = Weights("z", "test", "", "1", (File("a", url=sys.argv[1], member="a"),), "MIT")
print(fetch(WEIGHTS["z"], say=lambda text: print(text, flush=True)))
"""


def test_of_two_processes_one_fetches_and_one_waits(server, root, body):
    server.files["/m.zip"] = zipped({"a": body})
    server.troubles["/m.zip"] = [("hold",)]
    command = [sys.executable, "-c", FETCH, f"{server.url}/m.zip"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.asked.wait(30)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert second.stdout.readline() == f"waiting: another process holds {root / '.z.lock'}\n"
    server.release.set()
    assert first.communicate(timeout=30)[0] == second.communicate(timeout=30)[0] == f"{root / 'z'}\n"
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(server.requests) == 1
    assert (root / "z" / "a").read_bytes() == body
    assert sorted(p.name for p in root.iterdir()) == ["z", "z.pins.json"]


def zipped(members, method=zipfile.ZIP_STORED):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


@pytest.fixture
def set_in_a_zip(server, register):
    files = tuple(File(f"{name}.ckpt", url=f"{server.url}/m.zip", member=f"*/{name}*.ckpt") for name in "ab")
    return register(Weights("z", "test", server.url, "1", files, "MIT"))


def test_members_of_an_archive(server, root, set_in_a_zip, body):
    server.files["/m.zip"] = zipped({"E/a-epoch=03.ckpt": body, "E/b.ckpt": b"b", "E/cfg.yaml": "x"})
    folder = fetch(set_in_a_zip, patience=PATIENCE)
    assert sorted(p.name for p in folder.iterdir()) == ["a.ckpt", "b.ckpt"]
    assert (folder / "a.ckpt").read_bytes() == body
    (folder / "a.ckpt").unlink()
    server.files["/m.zip"] = zipped({"E/a.ckpt": b"new", "E/b.ckpt": b"new"})  # the archive is pinned, too
    with pytest.raises(WeightsError, match=r"m.zip serves other bytes than were published or pinned"):
        fetch(set_in_a_zip, patience=PATIENCE)
    fetch(set_in_a_zip, again=True, patience=PATIENCE)
    assert (folder / "a.ckpt").read_bytes() == b"new"


def spoil_the_stream(data):
    return data[:1000] + b"\xff" * 200 + data[1200:]


def spoil_the_method(data):
    """Compression method 99 in the local header and in the directory."""
    at = data.index(b"PK\x01\x02")
    return data[:8] + b"\x63\x00" + data[10 : at + 10] + b"\x63\x00" + data[at + 12 :]


@pytest.mark.parametrize("spoil", [spoil_the_stream, spoil_the_method, lambda data: data[:-10]])
def test_a_damaged_archive_is_said_and_deleted(server, root, set_in_a_zip, body, spoil):
    members = {"E/a.ckpt": body.hex(), "E/b.ckpt": b"b"}
    server.files["/m.zip"] = spoil(zipped(members, zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match=r"m.zip is no whole zip file \(.*\); it was deleted, fetch it again"):
        fetch(set_in_a_zip, patience=PATIENCE)
    assert list((root / "z").iterdir()) == []
    server.files["/m.zip"] = zipped(members, zipfile.ZIP_DEFLATED)
    fetch(set_in_a_zip, patience=PATIENCE)


def test_an_archive_with_other_members_is_said_and_deleted(server, root, set_in_a_zip):
    server.files["/m.zip"] = zipped({"E/a1.ckpt": b"", "E/a2.ckpt": b""})
    with pytest.raises(WeightsError, match=r"m.zip holds 2 files like \*/a\*.ckpt, one was expected"):
        fetch(set_in_a_zip, patience=PATIENCE)
    assert list((root / "z").iterdir()) == []


def test_a_named_folder_is_used_and_verified(root, shared_data, tmp_path):
    given = shared_data / "weights"
    for name in ("silero_vad", "scrfd_500m", "face_landmarker"):  # real files against their published digests
        use_folder(WEIGHTS[name], given)
        assert locate(name).resolve() == given.resolve()
        check(name, thorough=True)
    assert len({digest(name) for name in ("silero_vad", "scrfd_500m", "face_landmarker")}) == 3
    with pytest.raises(WeightsError, match=r"lacks emoca.ckpt"):
        use_folder(WEIGHTS["emoca"], given)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "silero_vad_16k_op15.onnx").write_bytes((given / "silero_vad_16k_op15.onnx").read_bytes()[:-1] + b"x")
    before = pins_of("silero_vad").read_bytes()
    with pytest.raises(WeightsError, match=r"copy does not hold .* published is 7ed98ddb.*Nothing was changed"):
        use_folder(WEIGHTS["silero_vad"], copy)
    assert locate("silero_vad").resolve() == given.resolve()
    assert pins_of("silero_vad").read_bytes() == before


def test_weights_by_hand_say_how(root):
    with pytest.raises(WeightsError, match=r"deca_model.tar by the link"):
        fetch(WEIGHTS["deca"])


def test_every_set_says_its_licence_and_restriction():
    for weights in WEIGHTS.values():
        assert weights.licence, weights.name
        assert weights.files
        if "Max Planck" in weights.licence or "InsightFace" in weights.licence:
            assert "non-commercial" in weights.restriction
