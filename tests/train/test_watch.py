"""A step that would do harm is seen before it is applied: by its loss or gradient, on every process, after a resume too."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from dualforce_model.store import read_provenance, read_tensors, write_tensors
from dualforce_model.train import TrainConfig, checkpoint
from dualforce_model.train.log import TIMING, read
from dualforce_model.train.loop import train
from dualforce_model.train.watch import LIMIT, WARM, DivergedError, Watch

CLIP = "good_hdtf_may_512_25-s0t0"


def judged(watch: Watch, losses, norm=1.0) -> list[bool]:
    return [watch.judge(loss, norm) is not None for loss in losses]


def test_a_spike_is_a_multiple_of_the_running_mean_once_there_is_one():
    watch = Watch(TrainConfig(spike=4.0))
    assert not any(judged(watch, [1.0] * (WARM - 1) + [100.0]))  # as many steps must be seen first
    watch = Watch(TrainConfig(spike=4.0))
    assert not any(judged(watch, [1.0] * WARM))
    assert judged(watch, [3.9, 6.0, 1.0]) == [False, True, False]
    assert "6 is more than 4 times the running mean" in str(watch.judge(6.0, 1.0))


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_what_is_no_number_is_seen_at_once_and_moves_no_mean(loss, norm):
    watch = Watch(TrainConfig())
    before = watch.state()
    assert "not finite" in str(watch.judge(loss, norm))
    assert {**watch.state(), "in_a_row": 0} == before
    assert watch.stops


def test_skipping_ends_when_nothing_else_happens():
    watch = Watch(TrainConfig(on_spike="skip"))
    stops = []
    for _ in range(LIMIT + 1):
        watch.judge(float("nan"), 1.0)
        stops.append(watch.stops)
    assert stops == [False] * LIMIT + [True]


def test_the_verdict_after_a_resume_is_the_same():
    losses = [1 + 0.1 * (n % 7) for n in range(WARM + 20)] + [9.0] + [1.0] * 9
    whole, first, second = (Watch(TrainConfig(spike=3.0)) for _ in range(3))
    expected = judged(whole, losses)
    found = judged(first, losses[:33])
    second.load(json.loads(json.dumps(first.state())))
    assert found + judged(second, losses[33:]) == expected
    assert sum(expected) == 1


@pytest.fixture(scope="module")
def poisoned(run_folder, tmp_path_factory) -> Path:
    """A dataset in which a few frames of one clip hold numbers that overflow."""
    folder = tmp_path_factory.mktemp("poisoned") / "run"
    shutil.copytree(run_folder, folder)
    path = folder / "features" / "struct_latents" / f"{CLIP}.safetensors"
    arrays, provenance = read_tensors(path), read_provenance(path)
    arrays["struct"][60:64] = 1e30
    made_by = {key: value for key, value in provenance.items() if key != "data_sha256"}
    write_tensors(path, arrays, made_by)
    return folder


CONFIG = TrainConfig(steps=14, batch=2, frames=3, checkpoint_every=4, on_spike="skip")


def rows(out: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMING} for row in read(out / "log.jsonl")]


@pytest.fixture(scope="module")
def skipping(poisoned, tmp_path_factory) -> tuple[Path, list[str]]:
    out, said = tmp_path_factory.mktemp("skipping"), []
    assert train(CONFIG, poisoned, out, said.append).state == "finished"
    return out, said


def test_skipped_steps_change_nothing_and_name_their_clips(skipping):
    out, said = skipping
    refused = [row for row in rows(out) if "spike" in row]
    assert 0 < len(refused) < 8
    assert all("not finite" in row["spike"] and CLIP in row["clips"] for row in refused)
    assert all(row["loss"] is not None for row in rows(out) if "spike" not in row)
    assert sum(line.startswith("skipped step") and CLIP in line for line in said) == len(refused)
    assert [row["step"] for row in rows(out)] == list(range(1, CONFIG.steps + 1))


def test_a_stopped_run_skips_the_same_steps(poisoned, skipping, tmp_path):
    def stop_at_six(line: str) -> None:
        if line.startswith('{"step": 6,'):
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = train(CONFIG, poisoned, tmp_path, stop_at_six)
    assert outcome.state == "stopped"
    assert train(CONFIG, poisoned, tmp_path, lambda _: None).state == "finished"
    assert rows(tmp_path) == rows(skipping[0])
    markers = [checkpoint.newest(out) / checkpoint.MARKER for out in (tmp_path, skipping[0])]
    assert markers[0].read_bytes() == markers[1].read_bytes()


def test_the_policy_stop_ends_the_run_and_names_the_clips(poisoned, tmp_path):
    config = TrainConfig(steps=14, batch=2, frames=3, checkpoint_every=100)
    with pytest.raises(DivergedError, match=f"its clips: .*{CLIP}"):
        train(config, poisoned, tmp_path, lambda _: None)
    last = rows(tmp_path)[-1]
    assert "not finite" in last["spike"]
    assert CLIP in last["clips"]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, last["step"] + 1))
