from __future__ import annotations

import pytest

from dualforce_model import timeline
from dualforce_model.timeline import Window


def test_latents_tile_the_clip_without_gap_or_overlap():
    for latents in range(1, 60):
        raw = [r for j in range(latents) for r in timeline.raw_range(j)]
        assert raw == list(range(timeline.raw_count(latents)))
        assert all(timeline.latent_of_raw(r) == j for j in range(latents) for r in timeline.raw_range(j))
        audio = [a for j in range(latents) for a in timeline.audio_range(j)]
        assert audio == list(range(timeline.audio_count(timeline.raw_count(latents))))


def test_counts_invert_and_a_tail_of_up_to_three_frames_belongs_to_no_latent():
    for raw in range(1, 200):
        whole = timeline.raw_count(timeline.latent_count(raw))
        assert 0 <= raw - whole <= 3


@pytest.mark.parametrize("start", [0, 1, 2, 13, 60])
@pytest.mark.parametrize("length", [1, 2, 8, 21])
def test_windows_are_dense_slot_grids(start, length):
    window = Window(start, length)
    raw = range(window.raw.start, window.raw.stop)
    assert window.front_frames + len(raw) == 4 * length
    assert window.front_audio + window.audio.stop - window.audio.start == 8 * length
    for r in raw:
        slot = r - window.raw.start + window.front_frames
        assert slot // 4 == timeline.latent_of_raw(r) - start


def test_times_agree_between_units():
    assert timeline.latent_time_of_raw(4 * 7) == 7
    assert timeline.latent_time_of_audio(2 * 28) == timeline.latent_time_of_raw(28)
    assert timeline.sample_of_raw(25) == timeline.SAMPLE_RATE
    assert timeline.raw_of_seconds(timeline.seconds_of_raw(1234)) == 1234


def test_impossible_windows_are_refused():
    with pytest.raises(ValueError, match="start -1"):
        Window(-1, 4)
    with pytest.raises(ValueError, match="at least one"):
        timeline.latent_count(0)
