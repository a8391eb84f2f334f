"""Fetching from a server that stalls, truncates, is too busy and serves wrong bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import random
import zipfile
from pathlib import Path

import pytest

from dualforce_model.weights import MissingWeightsError, WeightsError, digest, locate
from dualforce_model.weights import registry as registry_module
from dualforce_model.weights.download import Patience, download
from dualforce_model.weights.fetch import fetch
from dualforce_model.weights.place import check, use_folder
from dualforce_model.weights.registry import WEIGHTS, File, Weights

spec = importlib.util.spec_from_file_location("bad_server", Path(__file__).with_name("server.py"))
bad_server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bad_server)

PATIENCE = Patience(stall_s=0.3, tries=3, first_wait_s=0.0)
BODY = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    server = bad_server.BadServer()
    server.files["/a.bin"] = BODY
    yield server
    server.close()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def register(monkeypatch):
    def add(weights):
        monkeypatch.setitem(registry_module.WEIGHTS, weights.name, weights)
        return weights

    return add


@pytest.mark.parametrize(
    ("troubles", "requests"),
    [
        ([], 1),
        ([429, 503], 3),
        ([("truncate", 70_000), ("truncate", 70_000), ("truncate", 70_000), ("truncate", 70_000)], 5),
        ([("stall", 100_000)], 2),
        ([("truncate", 1000), ("no_range",)], 2),
        ([("wrong",)], 2),
        ([("truncate", 1000), ("wrong",)], 3),
    ],
)
def test_troubles_are_overcome(server, tmp_path, troubles, requests):
    server.troubles["/a.bin"] = troubles
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", len(BODY), SHA, PATIENCE) == SHA
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert len(server.requests) == requests
    server.release.set()


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path):
    server.troubles["/a.bin"] = [("truncate", 120_000), 503, 503, 503]
    with pytest.raises(WeightsError, match=r"503.*120000 bytes are kept"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE)
    assert not (tmp_path / "a.bin").exists()
    got = []
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE, got.append) == SHA
    assert server.requests[-1] == ("GET", "/a.bin", "bytes=120000-")
    assert sum(got) == len(BODY) - 120_000


def test_what_cannot_be_had_is_said(server, tmp_path):
    server.troubles["/a.bin"] = [("wrong",)] * 2
    with pytest.raises(WeightsError, match=r"serves other bytes than published"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", None, SHA, PATIENCE)
    with pytest.raises(WeightsError, match=r"404"):
        download(f"{server.url}/none", tmp_path / "b", None, None, PATIENCE)
    with pytest.raises(WeightsError, match=r"300000 bytes, 5 were published"):
        download(f"{server.url}/a.bin", tmp_path / "c", 5, None, PATIENCE)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".part"]


def test_a_set_is_fetched_pinned_and_verified(server, root, register):
    server.files |= {"/x/config.json": b"{}", "/x/sub/w.bin": BODY}
    server.troubles["/x/sub/w.bin"] = [503, ("truncate", 5)]
    register(Weights("t", "test", f"{server.url}/x", "1", (File("config.json"), File("sub/w.bin")), "MIT"))
    with pytest.raises(MissingWeightsError, match=r"dualforce weights fetch t"):
        locate("t")
    folder = fetch(WEIGHTS["t"], patience=PATIENCE)
    assert (folder / "sub/w.bin").read_bytes() == BODY
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


def test_members_of_an_archive(server, root, register):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("EMOCA/detail/checkpoints/deca-epoch=03.ckpt", BODY)
        archive.writestr("EMOCA/cfg.yaml", "x")
    server.files["/m.zip"] = packed.getvalue()
    file = File("emoca.ckpt", url=f"{server.url}/m.zip", member="*/detail/checkpoints/*.ckpt")
    folder = fetch(register(Weights("z", "test", server.url, "1", (file,), "MIT")), patience=PATIENCE)
    assert [p.name for p in folder.iterdir()] == ["emoca.ckpt"]
    assert (folder / "emoca.ckpt").read_bytes() == BODY


def test_the_hub(server, root, register, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    server.files["/o/r/resolve/main/w.bin"] = BODY
    folder = fetch(register(Weights("h", "test", "hf:o/r", "main", (File("w.bin"),), "MIT")), patience=PATIENCE)
    assert (folder / "w.bin").read_bytes() == BODY
    assert ("HEAD", "/o/r/resolve/main/w.bin", None) in server.requests


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
    with pytest.raises(WeightsError, match=r"published is 7ed98ddb"):
        use_folder(WEIGHTS["silero_vad"], copy)


def test_weights_by_hand_say_how(root):
    with pytest.raises(WeightsError, match=r"deca_model.tar by the link"):
        fetch(WEIGHTS["deca"])


def test_every_set_says_its_licence_and_restriction():
    for weights in WEIGHTS.values():
        assert weights.licence, weights.name
        assert weights.files
        if "Max Planck" in weights.licence or "InsightFace" in weights.licence:
            assert "non-commercial" in weights.restriction
