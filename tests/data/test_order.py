"""The order of windows: pure, complete, independent of the number of processes and of interruptions."""

import numpy as np
import pytest

from dualforce_model.data import WindowOrder

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


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_share_out_each_global_batch(world):
    for step in (0, 1, 17):
        whole = [p for rank in range(world) for p in ORDER.positions(step, 8, rank, world)]
        assert whole == list(range(8 * step, 8 * step + 8))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="8 windows can't be shared evenly by 3"):
        ORDER.positions(0, 8, 0, 3)


def test_stand_ins_for_unreadable_windows_stay_in_the_epoch():
    position = 2 * ORDER.epoch_length - 2
    stand_ins = [ORDER.next_in_epoch(position, tries) for tries in range(ORDER.epoch_length)]
    assert sorted(stand_ins) == list(range(ORDER.epoch_length, 2 * ORDER.epoch_length))
    assert stand_ins[0] == position
