"""From a dataset's list to its metadata through the real flows and server: licence, person, artifact, plan, forget."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from chain import call, command
from host import Fault, Host
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

STAGES = (
    "download",
    "source",
    "face_crop",
    "quality",
    "video_latents",
    "struct_latents",
    "flame",
    "audio_features",
    "reference",
)
ALL = [part for stage in (*STAGES, "metadata") for part in ("--only", stage)]


@pytest.fixture(scope="module")
def hdtf(shared_data, tmp_path_factory):
    """A list in HDTF's form whose videos a server on this machine has: two persons, a dead link, a clip without crop."""
    folder = tmp_path_factory.mktemp("HDTF")
    names = {"May0": "good_hdtf_may_512_25", "Lee0": "good_lp_s18_1280x720_30", "Gone0": "gone"}
    with Host() as host:
        for name in list(names.values())[:2]:
            host.files[f"/{name}.mp4"] = (shared_data / "clips" / f"{name}.mp4").read_bytes()
        host.faults[f"/{names['May0']}.mp4"] = [Fault(), Fault(cut_after=100_000)]
        lists = {
            "video_url": "".join(f"{name} {host.url(f'/{file}.mp4')}\n" for name, file in names.items()),
            "annotion_time": "May0.mp4 00:00-00:03\nLee0.mp4 00:01-00:04 00:04-00:07\nGone0.mp4 00:01-00:05\n",
            "crop_wh": "Lee0_0.mp4 474 480 8 480\nLee0_1.mp4 474 480 8 480\nGone0_0.mp4 0 99 0 99\n",
            "resolution": "May0.mp4 1080\nLee0.mp4 720\nGone0.mp4 720\n",
        }
        for what, text in lists.items():
            (folder / f"WDA_{what}.txt").write_text(text)
        yield folder, host


def arguments(hdtf, run_dir, *more):
    folder, host = hdtf
    settings = {
        "download.lists.hdtf": folder, "download.allow_hosts": f"['{host.name}']", "download.backoff_s": 0.1,
        "download.keep_free_gib": 0, "face_crop.size": 128, "metadata.val_share": 0, "metadata.test_share": 0,
        "quality.min_face_px": 64,
    }  # fmt: skip
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return command("run", "hdtf", "--run-dir", run_dir, *sets, *more)


def test_from_the_list_to_the_metadata_and_out_again(hdtf, prefect_server, tmp_path):
    run_dir = tmp_path / "run"
    call(arguments(hdtf, run_dir, *ALL))
    (entry,) = json.loads((run_dir / "download.json").read_text())["entries"]
    assert entry["videos"] == {"expected": 3, "obtained": 2, "lost": {"gone": 1}}
    assert entry["clips"] == {"expected": 4, "obtained": 3, "lost": {"gone": 1}}
    assert entry["hours"] == {
        "expected": round(13 / 3600, 4),
        "obtained": round(9 / 3600, 4),
        "lost": {"gone": round(4 / 3600, 4)},
    }
    assert entry["persons"] == {"expected": 3, "obtained": 2, "lost": {"gone": 1}}
    assert entry["list_problems"] == {"list_no_crop": 1}

    table = pd.read_parquet(run_dir / "metadata.parquet")
    assert set(table["licence"]) == {"CC-BY-4.0 (list)"}
    assert set(table["group"]) == {"hdtf/May", "hdtf/Lee"}
    lee = {row.source.rpartition("/")[2]: row.clip_id for row in table.itertuples() if "Lee0" in row.source}
    assert set(lee) == {"Lee0_0", "Lee0_1"}
    for clip in lee.values():
        facts = json.loads((run_dir / "clips" / f"{clip}.json").read_text())
        assert (facts["box"], facts["frames"]) == ([474, 8, 480, 480], 75)

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["expected-obtained"]))  # unfiltered, a page ends at 200
        shown = client.read_artifacts(artifact_filter=wanted)
    assert json.loads(max(shown, key=lambda artifact: artifact.created).data)[0]["clips"] == "3 of 4"
    page = (run_dir / "report" / "index.html").read_text()
    assert "Expected and obtained" in page
    assert "CC BY 4.0" in page

    # nothing is asked again, the dead link only when told
    _, host = hdtf
    host.requests.clear()
    call(arguments(hdtf, run_dir, "--only", "download"))
    assert host.requests == []
    call(arguments(hdtf, run_dir, "--only", "download", "--retry-failed", "gone"))
    assert set(host.count()) == {"/gone.mp4"}

    said = json.loads(call(command("forget", run_dir, "Lee0_1", "--json")))
    assert said["rows"]["source"] == said["rows"]["metadata"] == said["dataset_rows"] == 1
    assert not list(run_dir.rglob(f"*{lee['Lee0_1']}*"))
    assert (run_dir / "clips" / f"{lee['Lee0_0']}.mp4").exists()
    assert len(list((run_dir / "downloads" / "hdtf").glob("*.mp4"))) == 2  # other clips are of it
    call(arguments(hdtf, run_dir, "--only", "source", "--only", "metadata"))
    assert {row.source.rpartition("/")[2] for row in pd.read_parquet(run_dir / "metadata.parquet").itertuples()} == {
        "May0_0",
        "Lee0_0",
    }
    (entry,) = json.loads((run_dir / "download.json").read_text())["entries"]
    assert entry["clips"]["lost"] == {"denied": 1, "gone": 1}


def test_plan_says_what_the_real_list_will_cost(shared_data):
    path = shared_data / "manifests" / "HDTF"
    said = json.loads(call(command("plan", "hdtf", "--set", f"download.lists.hdtf={path}", "--json")))
    assert said["total"]["videos"] == 369
    assert said["total"]["clips"] == 436
    assert said["total"]["clip_hours"] == 17.07
    assert set(said["hours"]) >= {"download", "face_crop", "video_latents"}
    text = call(command("plan", "hdtf", "--set", f"download.lists.hdtf={path}"))
    assert "no_crop 15" in text
    assert "CC BY 4.0" in text
    assert "get it from https://github.com/MRzzm/HDTF" in call(command("plan", "hdtf"), code=2)


def test_a_local_folder_meets_no_download_stage(prefect_server, shared_data, tmp_path):
    call(command("run", "local", "--input", shared_data / "clips", "--run-dir", tmp_path / "run", "--only", "source"))
    assert not (tmp_path / "run" / "ledger" / "download").exists()
    assert not (tmp_path / "run" / "downloads").exists()
