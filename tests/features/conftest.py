"""The good real clips, cropped as the workflow crops them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualforce_model.faces import FaceCropConfig, crop_source
from dualforce_model.media import Clip

GOOD = (
    "good_hdtf_may_512_25",
    "good_hdtf_aoc_512_25",
    "good_retalk1_700_30",
    "good_latentsync_1080x1920_hevc",
    "good_lp_s18_1280x720_30",
)


@pytest.fixture(scope="session")
def good_clips(shared_data: Path, tmp_path_factory) -> dict[str, Clip]:
    folder = tmp_path_factory.mktemp("clips")
    clips = {}
    for name in GOOD:
        (facts,) = crop_source(shared_data / "clips" / f"{name}.mp4", name, name, folder, FaceCropConfig())
        clips[name] = Clip(folder, facts["clip_id"])
    return clips


@pytest.fixture(scope="session")
def may(good_clips) -> Clip:
    return good_clips["good_hdtf_may_512_25"]
