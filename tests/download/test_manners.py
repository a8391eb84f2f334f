"""Back-off, budget and circuit breaker, on a clock that the test turns."""

from __future__ import annotations

import math
import random

import pytest

from dualforce_model.config import ConfigError
from dualforce_model.download.config import DownloadConfig
from dualforce_model.download.failures import Failure
from dualforce_model.download.manners import Manners

REFUSED = Failure("throttled", "429")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def manners(**settings):
    clock = Clock()
    return Manners(DownloadConfig(**settings), clock, random.Random(1)), clock


def refuse(m, host, count, kind="throttled", first=0):
    for n in range(first, first + count):
        assert m.ask(host) == 0
        m.tell(host, f"v{n}", Failure(kind, "no"))


def test_so_many_at_a_time_for_one_host_and_for_all():
    m, _ = manners(concurrent=3, per_host=2)
    assert [m.ask("a"), m.ask("a")] == [0, 0]
    assert 0 < m.ask("a") < 1
    assert m.ask("b") == 0
    assert m.ask("c") > 0  # three in all
    m.tell("a", "v", None)
    assert m.ask("c") == 0


def test_pauses_between_two_beginnings():
    m, clock = manners(pause_s=10, per_host=4)
    assert m.ask("a") == 0
    assert 5 <= m.ask("a") <= 15
    assert m.ask("b") == 0  # another host's own matter
    clock.now += 15
    assert m.ask("a") == 0


def test_the_back_off_grows_has_jitter_and_heeds_the_host():
    m, _ = manners(retries=10, backoff_s=2, max_backoff_s=60)
    waits = {n: [m.again(REFUSED, n) for _ in range(200)] for n in (1, 2, 3, 9)}
    for n, longest in ((1, 2), (2, 4), (3, 8), (9, 60)):
        assert 0 <= min(waits[n]) < 0.2 * longest
        assert 0.8 * longest < max(waits[n]) <= longest
    assert m.again(Failure("throttled", "", retry_after_s=45), 1) == 45
    assert m.again(Failure("throttled", "", retry_after_s=3600), 1) is None  # that long no run waits


def test_dead_ones_are_not_tried_again_and_the_budget_ends():
    m, _ = manners(retries=2, retry_budget=3)
    assert m.again(Failure("gone", ""), 1) is None
    assert m.again(REFUSED, 3) is None  # its own retries
    assert [m.again(REFUSED, 1) is None for _ in range(5)] == [False, False, False, True, True]  # those of all together


def test_the_breaker_closes_a_host_that_refuses_everything_then_tries_one_then_gives_up():
    m, clock = manners(breaker=3, breaker_pause_s=100, breaker_pauses=2, per_host=4)
    refuse(m, "a", 3)
    assert m.ask("a") == 100
    assert m.ask("b") == 0  # others go on
    clock.now += 100
    assert m.ask("a") == 0  # one tries
    assert m.ask("a") > 0  # only one
    m.tell("a", "v3", REFUSED)
    assert m.ask("a") == 200  # twice as long
    clock.now += 200
    refuse(m, "a", 1, first=4)
    assert m.ask("a") == math.inf
    assert m.refusing("a").kind == "host_refusing"


def test_a_host_that_serves_again_is_open_again():
    m, clock = manners(breaker=2, breaker_pause_s=100, per_host=4)
    refuse(m, "a", 2)
    clock.now += 100
    assert m.ask("a") == 0
    m.tell("a", "v9", None)
    assert [m.ask("a") for _ in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "failure", [None, Failure("gone", ""), Failure("private", ""), Failure("network", "", progressed=True)]
)
def test_any_answer_shows_that_the_host_is_there(failure):
    m, _ = manners(breaker=3)
    for n in range(20):
        refuse(m, "a", 2, first=100 * n)
        assert m.ask("a") == 0
        m.tell("a", f"w{n}", failure)
    assert m.ask("a") == 0


def test_one_bad_video_again_and_again_does_not_close_its_host():
    m, _ = manners(breaker=3)
    for _ in range(20):
        assert m.ask("a") == 0
        m.tell("a", "v1", REFUSED)


def test_settings_are_checked(monkeypatch):
    for wrong in (
        {"lists": {"hdft": "x"}},
        {"concurrent": 0},
        {"retries": -1},
        {"timeout_s": 0},
        {"proxy": "http://me:secret@proxy:3128"},
    ):
        with pytest.raises(ConfigError):
            DownloadConfig(**wrong)
    monkeypatch.setenv("MY_PROXY", "http://me:secret@proxy:3128")
    config = DownloadConfig(proxy="$MY_PROXY")
    assert config.proxy_address == "http://me:secret@proxy:3128"
    assert "secret" not in repr(config)
    config = DownloadConfig(proxy="$NO_SUCH_NAME")  # whoever only looks into the run needs no proxy
    with pytest.raises(ConfigError, match="no variable 'NO_SUCH_NAME'"):
        config.proxy_address  # noqa: B018
