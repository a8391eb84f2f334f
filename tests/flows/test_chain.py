"""The whole chain on real clips, as a user calls it, and everything that a second call must not do again."""

from __future__ import annotations

import json
import shutil
import subprocess

import av
import pandas as pd
import pytest
from chain import artifacts, call, command, ledgers, reused, run_command, status

from dualforce_model.store import ledger

FEATURES = ("video_latents", "struct_latents", "flame", "audio_features", "reference")


def test_everything_is_where_the_readme_says(finished):
    for name in ("run.json", "metadata.parquet", "metadata.json", "stats.json", "report/index.html"):
        assert (finished / name).is_file(), name
    accepted = pd.read_parquet(finished / "metadata.parquet")
    assert len(accepted) == 2
    for clip in accepted["clip_id"]:
        for feature in FEATURES:
            assert (finished / "features" / feature / f"{clip}.safetensors").is_file()
    (row,) = ledger.read(finished, "generate").to_dict("records")
    with av.open(str(finished / row["artifact"])) as video:
        assert {s.type for s in video.streams} == {"video", "audio"}
        assert sum(1 for _ in video.decode(video=0)) == 25


def test_status_says_where_each_clip_stands_and_why(finished):
    found = status(finished)
    reasons = {clip["source"]: (clip["status"], clip["reason"]) for clip in found["clips"]}
    assert reasons["good_hdtf_may_512_25.mp4"] == ("accepted", "")
    assert reasons["silent_lp_d19_480_30.mp4"] == ("rejected", "silent_audio")
    assert reasons["bad_noface_7frames_2fps.mp4"][0] == "rejected"
    assert reasons["notes.mp4"][0] == "failed"
    assert all({"clip_id", "source", "stage", "status", "reason"} <= clip.keys() for clip in found["clips"])
    assert found["stages"]["source"]["failed"] == 1
    assert found["stages"]["quality"]["reasons"]["silent_audio"] == 1


def test_a_second_run_recomputes_nothing(run_copy, videos):
    before, was = artifacts(run_copy), ledgers(run_copy)
    times = {p: p.stat().st_mtime_ns for p in run_copy.rglob("*.safetensors")}
    call(run_command(videos, run_copy))
    assert all(part == whole for part, whole in reused(run_copy).values()), reused(run_copy)
    assert artifacts(run_copy) == before
    assert ledgers(run_copy) == was
    assert {p: p.stat().st_mtime_ns for p in run_copy.rglob("*.safetensors")} == times


def test_a_changed_parameter_redoes_its_feature_and_what_follows(run_copy, videos):
    call(run_command(videos, run_copy, "--set", "audio_features.mels=64"))
    found = reused(run_copy)
    redone = {stage for stage, (part, whole) in found.items() if part < whole}
    assert redone == {"audio_features", "metadata", "train", "generate"}
    assert found["audio_features"] == (0, 2)


def test_a_replaced_file_redoes_its_own_chain_only(run_copy, videos, tmp_path):
    mine = tmp_path / "videos"
    shutil.copytree(videos, mine)
    call(run_command(mine, run_copy))  # the same files elsewhere: their content is what counts
    assert reused(run_copy)["face_crop"] == (4, 4)
    shutil.copy(mine / "silent_lp_d19_480_30.mp4", mine / "good_retalk1_700_30.mp4")
    call(run_command(mine, run_copy, "--only", "source", "--only", "face_crop", "--only", "quality"))
    rows = ledger.read(run_copy, "quality").set_index("source")
    assert rows.loc["good_retalk1_700_30.mp4", "reason"] == "silent_audio"
    assert not rows.loc["good_retalk1_700_30.mp4", "reused"]
    assert rows.drop("good_retalk1_700_30.mp4")["reused"].all()


@pytest.mark.parametrize("damage", ["deleted", "flipped"])
def test_a_damaged_artifact_is_made_again(run_copy, videos, damage):
    before = artifacts(run_copy)
    names = [n for n in before if n.endswith(".safetensors") and n.startswith("features/")][::3]
    names += [next(n for n in before if n.endswith(".mp4") and n.startswith("clips/"))]
    for name in names:
        data = bytearray(before[name])
        data[len(data) // 2] ^= 255
        if damage == "deleted":
            (run_copy / name).unlink()
        else:
            (run_copy / name).write_bytes(data)
    call(run_command(videos, run_copy))
    assert artifacts(run_copy) == before


def test_only_touches_nothing_else(run_copy, videos):
    before = {p: p.stat().st_mtime_ns for p in run_copy.rglob("*") if p.is_file()}
    call(run_command(videos, run_copy, "--only", "audio_features", "--force"))
    changed = {p.relative_to(run_copy).parts[:2] for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert ("features", "audio_features") in changed
    assert changed <= {
        ("features", "audio_features"),
        ("ledger", "audio_features"),
        ("report", "index.html"),
        ("run.json",),
        (".lock",),
    }


def test_refilter_changes_verdicts_and_measures_nothing(run_copy):
    measured = ledger.read(run_copy, "quality")[["clip_id", "finished_at", "score_face_px"]]
    said = call(command("refilter", run_copy, "--set", "quality.min_face_px=100000"))
    assert "face_too_small" in said
    rows = ledger.read(run_copy, "quality")
    assert (rows["status"] == "rejected").all()
    assert rows[["clip_id", "finished_at", "score_face_px"]].equals(measured)
    said = call(command("refilter", run_copy, "--set", "quality.min_face_px=120"))
    assert "2 of 3 clips accepted" in said
    with_wrong_key = call(command("refilter", run_copy, "--set", "face_crop.size=128"), code=2)
    assert "refilter changes thresholds only" in with_wrong_key


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "audio_feature"], ["audio_feature", "did you mean", "audio_features"]),
        (["--from", "trian"], ["trian", "train"]),
        (["--set", "quality.min_face=1"], ["quality.min_face", "quality.min_face_px"]),
        (["--set", "face_crop.size=100"], ["size", "16"]),
    ],
)
def test_wrong_names_are_errors_with_near_misses(tmp_path, videos, arguments, words):
    said = call(run_command(videos, tmp_path / "run", *arguments, sets=[]), code=2)
    assert all(word in said for word in words), said
    assert not (tmp_path / "run" / "ledger").exists()


def test_an_empty_folder_and_a_missing_one(tmp_path, prefect_server):
    (tmp_path / "empty").mkdir()
    assert "no videos under" in call(run_command(tmp_path / "empty", tmp_path / "run"), code=2)
    assert "does not exist" in call(run_command(tmp_path / "gone", tmp_path / "run2"), code=2)


def test_a_run_folder_of_a_newer_version_is_left_alone(run_copy, videos):
    manifest = json.loads((run_copy / "run.json").read_text())
    (run_copy / "run.json").write_text(json.dumps({**manifest, "format": 99}))
    before = artifacts(run_copy)
    said = call(run_command(videos, run_copy), code=2)
    assert "newer version" in said
    assert artifacts(run_copy) == before


def test_two_runs_of_one_folder_do_not_mix(run_copy, videos):
    first = subprocess.Popen(
        run_command(videos, run_copy, "--force"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while first.poll() is None and not (run_copy / ".lock").read_text().startswith(f"process {first.pid} "):
            pass
        said = call(run_command(videos, run_copy), code=2)
        assert "in use by process" in said
    finally:
        assert first.wait(300) == 0
    assert all(row["failed"] == 0 for stage, row in status(run_copy)["stages"].items() if stage != "source")
