"""The suite of GPU figures: its commands are those that there are; it keeps to its time and says what it left out."""

import argparse
import json

import pytest

from dualforce_model.bench import __main__ as bench
from dualforce_model.bench.suite import ENTRIES, arguments, run


def suite(*words):
    parser = argparse.ArgumentParser()
    arguments(parser)
    return run(parser.parse_args(words))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_is_one(entry):
    modules = bench.subcommands()
    parser = argparse.ArgumentParser()
    modules[entry.words[0]].arguments(parser)
    parser.parse_args([*entry.words[1:], *(entry.short or ()), *entry.small])


def test_a_figure_is_rehearsed_and_taken(tmp_path, capsys):
    found = suite("--small", "--only", "train_21", "--out", str(tmp_path))
    assert found["holds"]
    assert found["train_21"]["result"]["preset"] == "tiny"
    assert json.loads((tmp_path / "train_21.json").read_text()) == found["train_21"]["result"]
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in told] == ["rehearsed train_21", "train_21"]


def test_when_time_is_up_what_runs_is_stopped_and_the_rest_left_out(tmp_path):
    # three at a time is more than there are places: the third never begins
    names = ("train_8", "train_21", "train_33", "parallel")
    found = suite("--small", "--only", *names, "--no-rehearse", "--minutes", "0.02", "--out", str(tmp_path))
    assert not found["holds"]
    assert [found[name]["exit_code"] for name in names[:2]] == [-9, -9]
    assert all("left out" in found[name] for name in names[2:])
