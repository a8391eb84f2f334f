"""Two processes that share a model (FSDP2, copies) or a window (Ulysses) compute what one alone computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chain import free_port

from dualforce_model.config import ConfigError
from dualforce_model.train.parallel import shards_wanted

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "infra" / "accelerate"
SAME = 2e-6  # fp32 sums in another order; of the largest gradient of all
WAYS = (
    "shards", "shards, let go after forward", "shards, in pieces", "copies", "copies, in pieces", "shared windows",
    "shared windows, odd", "shared windows, copies",
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict:
    """All that two gloo processes have to say, from one launch."""
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--num_processes", "2", "--main_process_port", str(free_port())]
    done = subprocess.run(
        [sys.executable, *launch, str(Path(__file__).with_name("spread_worker.py"))],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, text=True, capture_output=True,
        timeout=600,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(lines) == 1
    return json.loads(lines[0].removeprefix("FOUND "))


@pytest.mark.parametrize("way", WAYS)
def test_losses_gradients_and_weights_are_those_of_one_process(found, way):
    differences = dict(found[way])
    assert differences.pop("moved") > 1e-3  # the steps did something
    assert all(value < SAME for value in differences.values()), differences


def test_what_is_exchanged_lies_in_one_piece_of_memory_as_nccl_demands(found):
    assert found["exchanges"]["exchanged"] > 20
    assert found["exchanges"]["refused"] == 0


def test_every_process_holds_a_part_of_the_weights_that_one_alone_would_draw(found):
    assert found["meta"]["held_in_part"]
    assert found["meta"]["fresh"]


def test_averaged_weights_compute_and_the_own_ones_come_back(found):
    assert {name: found["meta"][name] for name in ("inside", "differs", "after")} == dict.fromkeys(
        ("inside", "differs", "after"), True
    )


def test_pieces_of_a_batch_bring_gradients_together_once(found):
    whole, in_pieces = found["syncs"]
    assert whole == in_pieces > 0


def test_what_cant_be_shared_is_refused_with_the_numbers(found):
    heads, tokens, processes = found["refused"]
    assert "3 heads of the video tower can't be shared by 2 processes" in heads
    assert "9 tokens of a frame can't be shared by 2 processes" in tokens
    assert "2 processes can't be divided into groups of 3" in processes


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("FSDP_VERSION", "1", "fsdp_version is 2 here"), ("FSDP_OFFLOAD_PARAMS", "true", "set it to false")],
)
def test_launch_settings_that_would_not_be_kept_are_refused(monkeypatch, setting, value, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv(setting, value)
    with pytest.raises(ConfigError, match=message):
        shards_wanted()


def test_launch_files_are_whole():
    files = {path.stem: yaml.safe_load(path.read_text()) for path in LAUNCH.glob("*.yaml")}
    assert {name: file["distributed_type"] for name, file in files.items()} == {
        "single": "NO", "ddp": "MULTI_GPU", "fsdp2_8gpu": "FSDP", "fsdp2_2node": "FSDP",
    }  # fmt: skip
    for name in ("fsdp2_8gpu", "fsdp2_2node"):
        assert files[name]["fsdp_config"]["fsdp_version"] == 2
        assert files[name]["fsdp_config"]["fsdp_offload_params"] is False
    assert files["fsdp2_2node"]["num_processes"] == 8 * files["fsdp2_2node"]["num_machines"]
