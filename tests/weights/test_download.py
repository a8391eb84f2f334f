"""One file from a server that stalls, truncates, is too busy and serves wrong bytes."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from dualforce_model.weights import WeightsError
from dualforce_model.weights.download import Patience, download

PATIENCE = Patience(stall_s=0.3, tries=3, first_wait_s=0.0)


@pytest.fixture
def sha(body):
    return hashlib.sha256(body).hexdigest()


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
        ([("chunked", b"x" * 300_001, True)], 2),  # longer than published
        ([("no_length", 1000)], 2),
    ],
)
def test_troubles_are_overcome(server, tmp_path, body, sha, troubles, requests):
    server.troubles["/a.bin"] = troubles
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", len(body), sha, PATIENCE) == sha
    assert (tmp_path / "a.bin").read_bytes() == body
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert len(server.requests) == requests
    server.release.set()


def test_more_bytes_than_the_file_has_are_thrown_away(server, tmp_path, body, sha):
    server.troubles["/a.bin"] = [("chunked", body + b"x", True)]
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", len(body), None, PATIENCE) == sha
    assert server.requests[1] == ("GET", "/a.bin", None)  # from the beginning


def test_a_broken_download_goes_on_where_it_broke(server, tmp_path, body, sha):
    server.troubles["/a.bin"] = [("truncate", 120_000), 503, 503, 503]
    with pytest.raises(WeightsError, match=r"503.*120000 bytes are kept"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE)
    assert not (tmp_path / "a.bin").exists()
    got = []
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE, got.append) == sha
    assert server.requests[-1] == ("GET", "/a.bin", "bytes=120000-")
    assert sum(got) == len(body) - 120_000


def test_what_cannot_be_had_is_said(server, tmp_path, sha):
    server.troubles["/a.bin"] = [("wrong",)] * 2
    with pytest.raises(WeightsError, match=r"serves other bytes than were published or pinned"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", None, sha, PATIENCE)
    with pytest.raises(WeightsError, match=r"404"):
        download(f"{server.url}/none", tmp_path / "b", None, None, PATIENCE)
    with pytest.raises(WeightsError, match=r"300000 bytes, 5 were published"):
        download(f"{server.url}/a.bin", tmp_path / "c", 5, None, PATIENCE)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_nobody_knows_the_end_of_is_refused(server, tmp_path, body, sha):
    server.troubles["/a.bin"] = [("no_length", 1000)]
    with pytest.raises(WeightsError, match=r"/a.bin: neither the server says how long"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE)
    server.troubles["/a.bin"] = [("chunked", body[:1000], False), ("chunked", body, True)]  # its end can be seen
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE) == sha
    assert len(server.requests) == 3


def test_waits_double_and_obey_the_server_up_to_a_limit(server, tmp_path):
    asked = [None, None, None, None, "7", "500", "Wed, 21 Oct 2026 07:28:00 GMT"]
    server.troubles["/a.bin"] = [("status", 503, retry_after) for retry_after in asked]
    waits = []
    patience = Patience(tries=8, first_wait_s=1.0, longest_wait_s=60.0, sleep=waits.append)
    download(f"{server.url}/a.bin", tmp_path / "a.bin", patience=patience)
    assert waits == [1, 2, 4, 8, 7, 60, 60]
    server.troubles["/a.bin"] = [503, ("truncate", 5), ("status", 429, None)]
    del waits[:]
    download(f"{server.url}/a.bin", tmp_path / "a.bin", patience=patience)
    assert waits == [0, 1, 2]  # progress begins the count anew


def test_a_full_disk_is_no_fault_of_the_connection(server, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=r"a\.bin\.part can't be written \(No space left on device\); make room"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", None, None, PATIENCE)
    assert len(server.requests) == 1
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"file can't be written"):
        download(f"{server.url}/a.bin", tmp_path / "file" / "a.bin", None, None, PATIENCE)


def test_two_downloads_of_one_file_take_turns(server, tmp_path):
    server.files["/big.bin"] = big = os.urandom(8_000_000)
    wanted = hashlib.sha256(big).hexdigest()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(download, f"{server.url}/big.bin", tmp_path / "big.bin") for _ in range(8)]
        assert {job.result() for job in jobs} == {wanted}
    assert server.most_at_once == 1
    assert (tmp_path / "big.bin").read_bytes() == big
    assert [p.name for p in tmp_path.iterdir()] == ["big.bin"]
