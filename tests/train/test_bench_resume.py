"""Killing, resuming and comparing in one command: equal on a CPU, and a difference is seen."""

import argparse
import json

from dualforce_model.bench import resume
from dualforce_model.bench.__main__ import main

SETTINGS = ["batch=2", "frames=2", "buckets=[]", "validate_every=1000"]


def test_a_killed_training_ends_as_one_that_nobody_killed(run_folder, tmp_path, capsys):
    words = ["resume", "--data", str(run_folder), "--config", "tiny", "--steps", "6", "--kill", "3", "--every", "2"]
    assert main([*words, "--set", *SETTINGS, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["killed and resumed"] == found["undisturbed twice"] == {"loss": 0.0, "weights": 0.0}
    assert list(tmp_path.iterdir()) == []


def test_other_noise_is_another_training(run_folder, tmp_path):
    parser = argparse.ArgumentParser()
    resume.arguments(parser)
    for seed in ("0", "1"):
        words = ["--data", str(run_folder), "--config", "tiny", "--steps", "2", "--set", *SETTINGS, f"seed={seed}"]
        resume._train(parser.parse_args(words), tmp_path / seed, None)
    apart = resume._apart(tmp_path / "0", tmp_path / "1")
    assert apart["loss"] > 1e-3
    assert apart["weights"] > 1e-3
