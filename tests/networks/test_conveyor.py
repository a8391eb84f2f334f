"""Reading ahead and sharing batches: order, errors of one clip alone, and nothing left behind."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dualforce_model.errors import BadInput
from dualforce_model.features.conveyor import ahead, in_batches


def job(start, count, error=None):
    def items():
        for k in range(count):
            yield np.full((2, 2), start + k, np.int64)
        if error is not None:
            raise error

    return items


def forward(seen):
    def run(batch):
        seen.append(batch[:, 0, 0].copy())
        doubled = {"x": batch[:, 0] * 2}
        return lambda: doubled

    return run


@pytest.mark.parametrize("readers", [1, 3])
def test_clips_share_batches_and_come_back_in_order(readers):
    seen = []
    jobs = [job(0, 5), job(100, 1), job(200, 0), job(300, 6)]
    results = list(in_batches(jobs, forward(seen), 4, readers))
    assert [batch.tolist() for batch in seen[:2]] == [[0, 1, 2, 3], [4, 100, 300, 301]]
    assert all(len(batch) == 4 for batch in seen)
    values = [result.get().get("x") for result in results]
    assert values[0][:, 0].tolist() == [0, 2, 4, 6, 8]
    assert values[1][:, 0].tolist() == [200]
    assert values[2] is None
    assert values[3][:, 0].tolist() == [600, 602, 604, 606, 608, 610]


def test_one_clip_error_is_its_own():
    results = list(in_batches([job(0, 3), job(10, 2, BadInput("broken", "broken")), job(20, 3)], forward([]), 4, 2))
    assert results[0].get()["x"][:, 0].tolist() == [0, 2, 4]
    with pytest.raises(BadInput, match="broken"):
        results[1].get()
    assert results[2].get()["x"][:, 0].tolist() == [40, 42, 44]


def test_threads_end_when_nobody_takes_their_items():
    before = threading.active_count()
    source = ahead([job(0, 1000), job(0, 1000)], readers=2, depth=2)
    taken = next(iter(next(source)))
    assert taken[0, 0] == 0
    source.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "_work" in thread.name:
            thread.join(5)
    assert threading.active_count() <= before
