"""The download stage on real files with faults: all obtained, none twice, dead ones left alone, counts exact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from fetching import do, run_of
from host import Fault, Host

from dualforce_model.config import ConfigError
from dualforce_model.data import dataset
from dualforce_model.download import deny
from dualforce_model.errors import BadInput
from dualforce_model.report import render
from dualforce_model.store import ledger, write_json
from tasks.download import retry_failed
from tasks.forget import forget
from tasks.run import RunError, open_run
from tasks.status import status

ROOT = Path(__file__).resolve().parents[2]
KEYS = [f"v{n:02d}" for n in range(12)]


@pytest.fixture(scope="module")
def clip(shared_data):
    return (shared_data / "clips" / "good_hdtf_may_512_25.mp4").read_bytes()


@pytest.fixture
def host(clip):
    with Host() as server:
        server.files |= {f"/{key}.mp4": clip for key in KEYS}
        yield server


@pytest.fixture
def links(host, tmp_path):
    path = tmp_path / "links.txt"
    path.write_text("".join(f"{key} {host.url(f'/{key}.mp4')}\n" for key in KEYS))
    return path


def verdicts(rows):
    return {row["source"].rpartition("/")[2]: row["reason"] or row["status"] for row in rows}


def counts(run):
    (entry,) = json.loads((run.dir / "download.json").read_text())["entries"]
    return entry


def test_faults_are_retried_and_every_video_comes_once(host, links, clip, tmp_path):
    for key, fault in {
        "v01": Fault(status=503),
        "v02": Fault(status=429, headers={"Retry-After": "0"}),
        "v03": Fault(cut_after=100_000),
        "v04": Fault(stall_after=100_000),
        "v05": Fault(status=500),
        "v06": Fault(length=-50_000),
    }.items():
        host.faults[f"/{key}.mp4"] = [Fault(), fault]
    run = run_of(tmp_path / "run", links, host.name)
    rows = do(run)
    assert verdicts(rows) == dict.fromkeys(KEYS, "accepted")
    for key in KEYS:
        assert (run.dir / f"downloads/links/{key}.mp4").read_bytes() == clip
    assert counts(run)["videos"] == {"expected": 12, "obtained": 12, "lost": {}}
    # and a second run asks the host for nothing
    asked = len(host.requests)
    assert all(row["reused"] for row in do(run))
    assert len(host.requests) == asked
    assert host.most_busy <= 4


def test_each_class_of_failure_is_a_row_and_dead_ones_are_left_alone_until_asked(host, links, clip, tmp_path):
    for key, status_ in {"v00": 404, "v01": 410, "v02": 401, "v03": 451, "v04": 503, "v05": 403}.items():
        host.always[f"/{key}.mp4"] = Fault(status=status_)
    host.files["/v06.mp4"] = b"<html></html>"
    run = run_of(tmp_path / "run", links, host.name, retries=1)
    rows = do(run)
    bad = {
        "v00": "gone",
        "v01": "gone",
        "v02": "sign_in",
        "v03": "region",
        "v04": "throttled",
        "v05": "forbidden",
        "v06": "not_a_video",
    }
    assert verdicts(rows) == dict.fromkeys(KEYS, "accepted") | bad
    assert {row["source_id"] for row in rows if row["retry"]} == {"v04", "v05"}
    do(run, "source")
    entry = counts(run)
    lost = {"gone": 2, "forbidden": 1, "not_a_video": 1, "region": 1, "sign_in": 1, "throttled": 1}
    assert entry["videos"] == entry["clips"] == entry["persons"] == {"expected": 12, "obtained": 5, "lost": lost}
    assert entry["hours"]["obtained"] == pytest.approx(5 * 4.0 / 3600, rel=0.5)

    host.requests.clear()
    host.always = {path: fault for path, fault in host.always.items() if fault.status not in (404, 503)}
    assert verdicts(do(run)) == dict.fromkeys(KEYS, "accepted") | {k: v for k, v in bad.items() if k != "v04"}
    assert set(host.count()) == {"/v04.mp4", "/v05.mp4"}  # what may pass is tried again, the dead are not

    assert retry_failed(run, ["gone"]) == 2
    host.requests.clear()
    assert verdicts(do(run))["v00"] == "accepted"  # it was back
    assert {"/v00.mp4", "/v01.mp4"} <= set(host.count()) <= {"/v00.mp4", "/v01.mp4", "/v05.mp4"}
    with pytest.raises(ConfigError, match="did you mean 'gone'"):
        retry_failed(run, ["gnoe"])


def test_nothing_is_retried_for_ever(host, links, tmp_path):
    host.always["/v00.mp4"] = Fault(status=503)
    run = run_of(tmp_path / "run", links, host.name, retries=1, lifetime=4)
    for attempts in (2, 4):
        (row,) = (row for row in do(run) if row["source_id"] == "v00")
        assert json.loads(row["facts"])["tries"] == attempts == host.count()["/v00.mp4"]
    assert not row["retry"]
    assert "given up after 4 attempts" in row["message"]
    do(run)
    assert host.count()["/v00.mp4"] == 4
    retry_failed(run, ["all"])
    do(run)
    assert host.count()["/v00.mp4"] == 6


def test_a_host_that_refuses_everything_is_left_alone(host, links, tmp_path):
    host.always = {f"/{key}.mp4": Fault(status=429) for key in KEYS}
    run = run_of(tmp_path / "run", links, host.name, breaker=3, breaker_pauses=1, breaker_pause_s=0.05)
    rows = do(run)
    assert set(verdicts(rows).values()) <= {"host_refusing", "throttled"}
    assert Counter(verdicts(rows).values())["host_refusing"] >= 6
    assert all(row["retry"] for row in rows)
    assert len(host.requests) < len(KEYS)
    host.always.clear()
    assert verdicts(do(run)) == dict.fromkeys(KEYS, "accepted")


def in_the_middle(folder, wanted):
    """So many videos are there and one is on its way."""
    parts = [path for path in folder.rglob("*.part") if path.stat().st_size]
    return bool(parts) and len(list(folder.rglob("*.json"))) >= wanted


def test_a_kill_loses_nothing_and_fetches_nothing_twice(host, links, clip, tmp_path):
    """SIGKILL at several moments; then the files are those of an undisturbed run and few bytes came twice."""
    arguments = {
        "folder": str(tmp_path / "run"),
        "links": str(links),
        "host": host.name,
        "rate_limit_kib": 512,
        "concurrent": 2,
    }
    command = [sys.executable, str(ROOT / "tests" / "support" / "fetching.py"), json.dumps(arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parts, rests = [], []
    for wanted in (2, 7):
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            while process.poll() is None and not in_the_middle(tmp_path / "run" / "downloads", wanted):
                time.sleep(0.01)
            assert process.poll() is None, "it ended before it could be killed"
            os.killpg(process.pid, signal.SIGKILL)
        parts.append({p.name.partition(".")[0]: p.stat().st_size for p in (tmp_path / "run").rglob("*.part")})
        rests.append(len(host.requests))
    whole = {path.name for path in (tmp_path / "run" / "downloads").rglob("*.json")}
    assert len(whole) >= 7
    run = run_of(tmp_path / "run", links, host.name)
    rows = do(run)
    assert verdicts(rows) == dict.fromkeys(KEYS, "accepted")
    assert {p.name for p in (run.dir / "downloads" / "links").iterdir()} == {
        f"{k}.{e}" for k in KEYS for e in ("mp4", "json")
    }
    assert all((run.dir / f"downloads/links/{key}.mp4").read_bytes() == clip for key in KEYS)
    assert any(parts), "no kill came in the middle of a file"
    for left, begin, end in zip(parts, rests, [*rests[1:], len(host.requests)], strict=True):
        later = [r for r in host.requests[begin:end] if not r.look]
        for key, size in left.items():  # each part is gone on with, to the byte
            asked = [r.first for r in later if r.path == f"/{key}.mp4"]
            assert asked in (
                [],
                [size],
            )  # nothing when it was whole already, or when the next kill came before its turn
    for key in KEYS:
        assert sum(r.first == 0 for r in host.requests if r.path == f"/{key}.mp4" and not r.look) <= 2
    alone = do(run_of(tmp_path / "alone", links, host.name))
    same = ("source", "source_id", "status", "reason", "identity", "files", "facts")
    assert [[row[c] for c in same] for row in rows] == [[row[c] for c in same] for row in alone]


def test_flaws_of_a_list_are_rows_with_their_loss_counted(host, tmp_path):
    path = tmp_path / "links.txt"
    path.write_text(f"{host.url('/v00.mp4')}\nnonsense\nb {host.url('/v01.mp4')}\nb {host.url('/v02.mp4')}\n")
    run = run_of(tmp_path / "run", path, host.name)
    rows = do(run)
    assert Counter(row["reason"] for row in rows) == {"": 2, "list_bad_line": 1, "list_name_twice": 1}
    do(run, "source")
    assert counts(run)["clips"] == {"expected": 4, "obtained": 2, "lost": {"list_bad_line": 1, "list_name_twice": 1}}
    assert counts(run)["list_problems"] == {"list_bad_line": 1, "list_name_twice": 1}
    assert "list_bad_line 1" in (page := render(run.dir).read_text())
    assert "2 of 4" in page
    assert "You chose the links" in page
    assert status(run.dir)["stages"]["download"]["rejected"] == 2


def test_a_denied_id_is_not_fetched_and_forget_removes_what_is_there(host, links, clip, tmp_path):
    run = run_of(tmp_path / "run", links, host.name)
    do(run)
    do(run, "source")
    (source,) = (r for r in ledger.read(run.dir, "source").to_dict("records") if r["source"].startswith("links/v03/"))
    clip_id = f"{source['source_id']}-s0t0"
    made = [
        f"clips/{clip_id}.mp4",
        f"clips/{clip_id}.json",
        f"features/flame/{clip_id}.safetensors",
        f"samples/{clip_id}.mp4",
    ]
    for name in [
        *made,
        "clips/v033-s0t0.mp4",
        "report/index.html",
        "downloads/links/v03.mp4.part",
        "checkpoints/abc/x",
    ]:
        (run.dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run.dir / name).write_bytes(b"x")
    row = {**source, "clip_id": clip_id, "files": "[]", "stage": "face_crop"}
    ledger.write_part(run.dir, "face_crop", 0, [{k: v for k, v in row.items() if k in ledger.COLUMNS}])

    found = forget(run, ["v03"])
    assert set(made) | {"downloads/links/v03.mp4", "downloads/links/v03.json", "downloads/links/v03.mp4.part"} <= set(
        found["files"]
    )
    assert not any((run.dir / name).exists() for name in found["files"])
    assert (run.dir / "clips/v033-s0t0.mp4").exists()
    assert found["rows"] == {"download": 1, "source": 1, "face_crop": 1}
    assert found["left"] == ["checkpoints/abc"]
    assert len(list((run.dir / "downloads/links").glob("*.mp4"))) == 11

    host.requests.clear()
    assert verdicts(do(run))["v03"] == "denied"
    assert host.requests == []
    assert len(do(run, "source")) == 11
    assert counts(run)["videos"]["lost"] == {"denied": 1}
    assert forget(run, ["v03"])["files"] == ["download.json"]  # it can be done again


def test_a_deny_list_of_the_config_is_taken_over_at_once(host, links, tmp_path):
    do(run_of(tmp_path / "run", links, host.name))
    names = tmp_path / "deny.txt"
    names.write_text("v01  # asked to be left out\n\nv02\n")
    run = run_of(tmp_path / "run", links, host.name, deny=str(names))
    assert deny.read(run.dir) == {"v01", "v02"}
    assert [name for name, verdict in verdicts(do(run)).items() if verdict == "denied"] == ["v01", "v02"]
    with pytest.raises(RunError, match="deny-list"):
        run_of(tmp_path / "run", links, host.name, deny=str(tmp_path / "nowhere.txt"))


def test_denied_clips_reach_no_training_window(tmp_path):
    columns = dict.fromkeys(dataset.FEATURES, "x")
    rows = [
        {
            "clip_id": f"{key}-s0t0",
            "source_id": key,
            "source": f"hdtf/{key}/a",
            "split": "train",
            "frames": 9,
            "latents": 3,
            **columns,
        }
        for key in ("aa", "bb")
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "metadata.parquet")
    write_json(tmp_path / "metadata.json", {"format": dataset.FORMAT})
    write_json(tmp_path / "stats.json", {})
    assert len(dataset.Dataset.open(tmp_path).clips["train"]) == 2
    deny.add(tmp_path, ["aa"])
    assert [clip.clip_id for clip in dataset.Dataset.open(tmp_path).clips["train"]] == ["bb-s0t0"]


def test_a_full_disk_stops_the_run_and_the_next_goes_on(host, links, tmp_path):
    full = run_of(tmp_path / "run", links, host.name, keep_free_gib=1e9)
    with pytest.raises(RunError, match="free some space"):
        do(full)
    assert verdicts(do(run_of(tmp_path / "run", links, host.name))) == dict.fromkeys(KEYS, "accepted")


def test_two_shards_share_the_manners(host, links, tmp_path):
    run = run_of(tmp_path / "run", links, host.name, shard_size=5, per_host=2)
    assert verdicts(do(run)) == dict.fromkeys(KEYS, "accepted")
    assert host.most_busy <= 2


def test_lists_are_found_from_wherever_the_run_goes_on(host, links, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_of(tmp_path / "run", Path("links.txt"), host.name)
    monkeypatch.chdir("/")
    assert verdicts(do(open_run(tmp_path / "run"))) == dict.fromkeys(KEYS, "accepted")


def test_no_lists_no_download(tmp_path):
    from dualforce_model import config as configs
    from tasks.config import RunConfig
    from tasks.run import create

    run = create(tmp_path / "run", configs.build(RunConfig, {}))
    with pytest.raises(RunError, match="no lists to download from"):
        do(run)


def test_cookies_that_cannot_be_read_stop_the_run_before_it_asks_anybody(host, links, tmp_path):
    with pytest.raises(BadInput, match="cookies cannot be read"):
        do(run_of(tmp_path / "run", links, host.name, cookies=str(tmp_path / "nowhere.txt")))
    assert host.requests == []


def test_five_hundred_small_files_with_faults_are_all_obtained_and_counted(shared_data, tmp_path):
    small = (shared_data / "clips" / "bad_noface_7frames_2fps.mp4").read_bytes()
    names = [f"n{n:03d}" for n in range(500)]
    faults = [Fault(status=503), Fault(cut_after=2000), Fault(status=500), Fault(status=429), Fault(length=-1500)]
    with Host() as host:
        host.files |= {f"/{name}.mp4": small for name in names}
        for n, name in enumerate(names[::20]):
            host.faults[f"/{name}.mp4"] = [Fault(), faults[n % len(faults)]]
        path = tmp_path / "links.txt"
        path.write_text("".join(f"{name} {host.url(f'/{name}.mp4')}\n" for name in names))
        run = run_of(tmp_path / "run", path, host.name)
        rows = do(run)
        transfers = Counter(request.path for request in host.requests if not request.look)
    assert verdicts(rows) == dict.fromkeys(names, "accepted")
    assert counts(run)["videos"] == {"expected": 500, "obtained": 500, "lost": {}}
    files = {p.stem: p.read_bytes() for p in (run.dir / "downloads" / "links").glob("*.mp4")}
    assert files == dict.fromkeys(names, small)
    assert transfers == {f"/{name}.mp4": 2 if name in names[::20] else 1 for name in names}
