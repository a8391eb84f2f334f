"""How a training is launched: as many processes as it takes slots of the server's limit `gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
from chain import ROOT

from tasks.config import RunConfig, RunnerConfig
from tasks.devices import slots
from tasks.run import RunError
from tasks.train import processes

FILES = ROOT / "infra" / "accelerate"


@pytest.mark.parametrize(
    ("name", "count"),
    [("single.yaml", 1), ("ddp.yaml", 8), ("fsdp2_8gpu.yaml", 8), ("fsdp2_2node.yaml", 8)],
)
def test_a_training_takes_as_many_gpus_as_its_launch_file_starts_processes_here(name, count):
    config = RunConfig(runner=RunnerConfig(accelerate=FILES / name))
    assert slots(config, "train") == count
    assert processes(RunnerConfig(accelerate=FILES / name, train_processes=count)) == count
    assert slots(RunConfig(runner=RunnerConfig(train_processes=3)), "train") == 3


def test_two_numbers_of_processes_are_refused():
    with pytest.raises(RunError, match=r"starts 8 processes .* runner\.train_processes is 2: leave that out"):
        slots(RunConfig(runner=RunnerConfig(accelerate=FILES / "fsdp2_8gpu.yaml", train_processes=2)), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ("", "does not say num_processes"),
        ("num_processes: many", "does not say num_processes"),
    ],
)
def test_a_launch_file_that_says_no_number_is_refused(tmp_path: Path, content, message):
    file = tmp_path / "launch.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RunError, match=message):
        processes(RunnerConfig(accelerate=file))
