"""The figures of training on several processes are taken by one command, on the CPU too."""

import json

from dualforce_model.bench.__main__ import main


def test_one_command_measures_shards_shared_windows_checkpoints_and_resuming(capsys, tmp_path):
    sizes = ["--frames", "2", "--long", "3", "--batch", "1", "--pixels", "32", "--steps", "1", "--warmup", "1"]
    where = ["--cpu", "--folder", str(tmp_path), "--no-baseline", "--json"]
    assert main(["parallel", "--preset", "tiny", "--eager", *sizes, *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["processes"] == 2
    assert found["all_processes"]["shards"]["windows"] == 2
    assert found["all_processes"]["long"]["windows"] == 1  # one window for both
    assert len(found["all_processes"]["checkpoint"]["stall_s"]) == 2
    assert found["resume_s"] >= found["of_which"]["first step"] > 0
    assert list(tmp_path.iterdir()) == []
