"""MODEL.md, acceptance test 4: an impulse at raw frame r lands in the same latent in all five features."""

from __future__ import annotations

import numpy as np
import pytest
from made_clip import face_points, make_clip

from dualforce_model import timeline
from dualforce_model.features import FEATURES, flame, struct_latents

FRAMES, SIZE = 117, 64  # 30 latents: well beyond 49 frames


def impulse(folder, raw):
    """A clip in which at one raw frame the picture flashes, a click sounds, the mouth opens and the face is sharp."""
    frames = np.full((FRAMES, SIZE, SIZE, 3), 60, np.uint8)
    frames[raw] = 220
    audio = np.zeros(FRAMES * timeline.SAMPLES_PER_FRAME, np.float32)
    # anywhere inside of the frame's own 640 samples
    audio[timeline.sample_of_raw(raw) + (raw * 37) % timeline.SAMPLES_PER_FRAME] = 0.9
    closed = np.zeros((21, 3))
    opened = closed.copy()
    opened[3, 1] = 0.2
    landmarks = np.stack(
        [face_points(np.eye(3), 0.6, (0, 0), SIZE, opened if r == raw else closed) for r in range(FRAMES)]
    )
    sharpness = np.zeros(FRAMES, np.float32)
    sharpness[raw] = 1
    return make_clip(folder, f"impulse-{raw}", frames, audio, landmarks, sharpness=sharpness)


def extracted(clip):
    return {name: feature.extract(clip, feature.config()) for name, feature in FEATURES.items()}


@pytest.mark.parametrize("raw", [0, 1, 3, 4, 5, 8, 47, 48, 49, 50, 51, 52, 53, 100, 113, 116])
def test_an_impulse_lands_in_one_latent_whatever_the_window(tmp_path, raw):
    made = extracted(impulse(tmp_path, raw))
    light = made["video_latents"]["latents"][0].astype(float).mean((1, 2))
    mouth = made["struct_latents"]["struct"][:, struct_latents.OFFSETS.start + 3 * 3 + 1]
    jaw = made["flame"]["flame"][:, flame.JAW_OPENING]
    sound = made["audio_features"]["audio"].sum(1)
    assert raw in made["reference"]["frames"]
    still = made["reference"]["latents"][made["reference"]["frames"].tolist().index(raw)]
    assert still[0].mean() > 0.5 + light.min()  # it shows the flash

    target, latents = timeline.latent_of_raw(raw), len(light)
    assert latents == timeline.latent_count(FRAMES) == 30
    for length in (1, 3, 8):
        for start in range(latents - length + 1):
            window = timeline.Window(start, length)
            if not start <= target < start + length:
                assert raw not in range(window.raw.start, window.raw.stop)
                continue
            where = {
                "video": int(light[window.latents].argmax()),
                "struct": (window.front_frames + int(mouth[window.raw].argmax())) // timeline.STRIDE,
                "flame": (window.front_frames + int(jaw[window.raw].argmax())) // timeline.STRIDE,
                "audio": (window.front_audio + int(sound[window.audio].argmax())) // timeline.AUDIO_PER_LATENT,
                "reference": timeline.latent_of_raw(raw) - start,
            }
            assert set(where.values()) == {target - start}, where
            assert window.raw.start + int(mouth[window.raw].argmax()) == raw
            assert (window.audio.start + int(sound[window.audio].argmax())) // timeline.AUDIO_PER_FRAME == raw
