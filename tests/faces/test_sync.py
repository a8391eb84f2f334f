"""Pictures and sound of a cropped clip stay together, from the source's clock to the file that is written."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from cropped import crop
from movies import even_times, flashes, uneven_times

from dualforce_model.faces import FaceCropConfig
from dualforce_model.media import GridReader

SOURCES = {
    "29.97 fps": (even_times(Fraction(30_000, 1001)), Fraction(30_000, 1001)),
    "variable rate": (uneven_times(), Fraction(30)),
    "video 1.7 s after the sound": (even_times(Fraction(30), Fraction(17, 10)), Fraction(30)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_flashes_and_beeps_under_a_face(tmp_path, shared_data, name):
    face = [f.picture.rgb() for f in GridReader(shared_data / "clips" / "good_hdtf_may_512_25.mp4")]
    truth = np.array(flashes(tmp_path / "source.mp4", *SOURCES[name], backdrop=face))
    (clip,) = crop(tmp_path / "source.mp4", tmp_path / "out", FaceCropConfig(size=256)).clips
    truth -= clip.info["start_s"]
    light = np.array([frame[-16:-8, 64:192].mean() for frame in clip.frames()])
    seen = (np.flatnonzero((light[1:] > 120) & (light[:-1] <= 120)) + 1) / 25
    loud = np.flatnonzero(np.abs(clip.audio()) > 0.2)
    heard = loud[np.r_[True, np.diff(loud) > 4000]] / 16_000
    assert len(seen) == len(heard) == len(truth)
    assert np.abs(seen - truth).max() <= 0.0205
    assert np.abs(heard - truth).max() <= 0.002
