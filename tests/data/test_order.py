"""The order of windows: pure, complete, independent of the number of processes and of interruptions."""

from collections import Counter

import numpy as np
import pytest

from dualforce_model.data import BatchOrder, WindowOrder
from dualforce_model.data.order import shares

ORDER = WindowOrder(latents=(40, 3, 17, 64), frames=5, seed=3)


def test_an_epoch_holds_each_clip_as_often_as_its_length_says():
    windows = [ORDER.window(p) for p in range(ORDER.epoch_length)]
    assert [sum(c == clip for c, _ in windows) for clip in range(4)] == [8, 1, 3, 12]
    assert ORDER.epoch_length == 24


def test_windows_lie_within_their_clips():
    for position in range(10 * ORDER.epoch_length):
        clip, start = ORDER.window(position)
        assert start == 0 or 0 < start <= ORDER.latents[clip] - ORDER.frames


def test_some_windows_start_the_clip_and_most_do_not():
    starts = [ORDER.window(p)[1] for p in range(40 * ORDER.epoch_length)]
    assert 0.25 < np.mean(np.array(starts) == 0) < 0.4  # 0.25, the short clip, and chance
    assert WindowOrder((400,), 5, 0, first_share=1.0).window(7)[1] == 0


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    again = WindowOrder(latents=(40, 3, 17, 64), frames=5, seed=3)
    late = [again.window(p) for p in range(100, 130)]  # asked first for a late part
    assert late == [ORDER.window(p) for p in range(100, 130)]
    other = WindowOrder(latents=(40, 3, 17, 64), frames=5, seed=4)
    assert [other.window(p) for p in range(24)] != [ORDER.window(p) for p in range(24)]
    assert [ORDER.window(p) for p in range(24)] != [ORDER.window(p) for p in range(24, 48)]


BUCKETS = BatchOrder(latents=(40, 3, 17, 64, 21, 9, 33, 70), buckets=((5, 8), (16, 4), (33, 2)), seed=3)


@pytest.mark.parametrize("order", [BatchOrder((40, 3, 17, 64), ((5, 8),), 3), BUCKETS])
@pytest.mark.parametrize("world", [1, 2])
def test_ranks_share_out_each_global_batch(order, world):
    for step in range(40):
        whole = [place for rank in range(world) for place in order.share(step, rank, world)]
        assert whole == order.batch(step)


def test_one_bucket_is_the_plain_order():
    order = BatchOrder(ORDER.latents, ((5, 8),), seed=3)
    assert [order.batch(step) for step in (0, 17)] == [
        [(0, position) for position in range(8 * step, 8 * step + 8)] for step in (0, 17)
    ]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="8 windows can't be shared evenly by 3"):
        BatchOrder(ORDER.latents, ((5, 8),), 3).share(0, 0, 3)
    with pytest.raises(ValueError, match="4 windows of one process can't be split into 3"):
        list(shares(BatchOrder(ORDER.latents, ((5, 8),), 3), range(1), 0, 2, micro=3))


def test_a_share_is_cut_into_micro_batches_in_order():
    order = BatchOrder(ORDER.latents, ((5, 8),), 3)
    pieces = list(shares(order, range(3, 5), 1, 2, micro=2))
    assert [len(piece) for piece in pieces] == [2, 2, 2, 2]
    assert pieces[0] + pieces[1] == order.share(3, 1, 2)
    assert pieces[2] + pieces[3] == order.share(4, 1, 2)


def test_clips_belong_to_the_longest_bucket_that_they_fill():
    assert BUCKETS.clips == ((1, 5), (2, 4), (0, 3, 6, 7))
    assert [order.frames for order in BUCKETS.orders] == [5, 16, 33]


def test_a_step_has_one_length_and_no_window_is_dropped():
    per_round = sum(BUCKETS.steps_per_round)
    seen = Counter()
    for step in range(30 * per_round):
        batch = BUCKETS.batch(step)
        (bucket,) = {place.bucket for place in batch}
        assert len(batch) == BUCKETS.buckets[bucket][1]
        seen.update(batch)
    assert set(seen.values()) == {1}
    for bucket in range(3):  # every position from the first on, each once
        mine = sorted(place.position for place in seen if place.bucket == bucket)
        assert mine == list(range(len(mine)))
        assert len(mine) == 30 * BUCKETS.steps_per_round[bucket] * BUCKETS.buckets[bucket][1]


def test_the_buckets_of_a_round_are_shuffled_by_seed_and_round():
    def kinds(order, turn):
        n = sum(order.steps_per_round)
        return [order.batch(step)[0].bucket for step in range(turn * n, (turn + 1) * n)]

    many = BatchOrder(BUCKETS.latents * 20, BUCKETS.buckets, 3)
    late = kinds(BatchOrder(BUCKETS.latents * 20, BUCKETS.buckets, 3), 5)  # asked first for a late part
    assert late == kinds(many, 5)
    assert kinds(many, 0) != kinds(many, 1)
    assert kinds(many, 0) != kinds(BatchOrder(BUCKETS.latents * 20, BUCKETS.buckets, 4), 0)


def test_a_bucket_that_no_clip_fills_is_left_out():
    order = BatchOrder((9, 12), ((5, 2), (16, 2)), 0)
    assert order.orders[1] is None
    assert {place.bucket for step in range(20) for place in order.batch(step)} == {0}


def test_stand_ins_for_unreadable_windows_stay_in_the_epoch():
    position = 2 * ORDER.epoch_length - 2
    stand_ins = [ORDER.next_in_epoch(position, tries) for tries in range(ORDER.epoch_length)]
    assert sorted(stand_ins) == list(range(ORDER.epoch_length, 2 * ORDER.epoch_length))
    assert stand_ins[0] == position
