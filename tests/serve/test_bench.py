"""The benchmark of several sessions: all get frames at one pace, and those that they would have alone."""

import json

import pytest

from dualforce_model.bench import serve
from dualforce_model.bench.__main__ import main

WORDS = ["serve", "--preset", "tiny", "--pixels", "32", "--steps", "1", "--window", "3", "--seconds", "1"]


def test_sessions_get_their_own_frames_at_one_pace(capsys):
    assert main([*WORDS, "--sessions", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["every session's frames are its own, to the bit"]
    slowest, quickest = found["as fast as it goes"]["frames per second, slowest and quickest"]
    assert 0 < slowest <= quickest < 2 * slowest  # turns, not one after the other
    spoken = found["as it is spoken"]
    assert spoken["frames per second, slowest and quickest"][1] < 30  # not before it is said
    assert 0 < spoken["lag, median and 95 %"][0] <= spoken["lag, median and 95 %"][1]


def test_frames_of_somebody_else_are_noticed(capsys, monkeypatch):
    alone = serve._alone
    monkeypatch.setattr(serve, "_alone", lambda talker, config, number, seconds: alone(talker, config, 0, seconds))
    assert main([*WORDS, "--sessions", "2", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["holds"]


def test_a_scheduler_that_ends_is_no_endless_wait(monkeypatch):
    async def broken(_):
        raise RuntimeError("no turns today")

    monkeypatch.setattr(serve.Turns, "run", broken)
    with pytest.raises(RuntimeError, match="no turns today"):
        main([*WORDS, "--sessions", "1", "--json"])
