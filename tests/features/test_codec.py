from __future__ import annotations

import itertools

import numpy as np
import pytest

from dualforce_model import timeline
from dualforce_model.features import codec

TEMPORAL = [i for i, (_, t, _, _) in enumerate(codec.CHANNELS) if t]


def psnr(a, b):
    """Mean of the pictures' PSNR in dB, all three colours."""
    error = ((np.asarray(a, np.float32) - b) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


@pytest.fixture(scope="module")
def pictures(may):
    return np.stack(list(itertools.islice(may.frames(), 62)))


def test_the_sixteen_coefficients_are_an_orthonormal_projection():
    nothing = np.zeros((4, 8, 8, 3), np.uint8)
    rows = []
    for place in np.ndindex(nothing.shape):
        one = nothing.copy()
        one[place] = 1
        rows.append(codec.transform(one)[:, 0, 0])
    matrix = np.array(rows).T  # [16, 768]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(16), atol=1e-5)


def test_channels_are_low_frequency_brightness_then_two_colour_means():
    light = [channel for channel in codec.CHANNELS if channel[0] == 0]
    assert (*light, (1, 0, 0, 0), (2, 0, 0, 0)) == codec.CHANNELS
    assert len(set(codec.CHANNELS)) == 16
    assert codec.CHANNELS[0] == (0, 0, 0, 0)
    # a frequency is kept only with all lower ones of its time frequency
    for _, t, v, u in light:
        assert all((0, t, a, b) in light for a in range(v + 1) for b in range(u + 1))


def test_geometry_and_storage(pictures):
    latents = codec.encode(pictures)
    assert latents.dtype == np.float16
    assert latents.shape == (16, timeline.latent_count(62), 64, 64)
    assert codec.decode(latents).shape == (timeline.raw_count(latents.shape[1]), 512, 512, 3)


def test_latent_0_is_the_first_picture_alone(pictures):
    latents = codec.encode(pictures)
    still = codec.encode_still(pictures[0])
    assert np.array_equal(latents[:, 0], still)
    four_times = codec.encode_block(np.repeat(pictures[:1], 4, 0))
    np.testing.assert_allclose(still.astype(float), four_times.astype(float), atol=2e-3)  # steps of float16
    assert not still[TEMPORAL].any()
    assert psnr(codec.decode_block(still, still=True), pictures[:1]) > 34


def test_encoding_a_beginning_gives_the_beginning(pictures):
    whole = codec.encode(pictures)
    for frames in (1, 4, 5, 8, 50, 61):
        assert np.array_equal(codec.encode(pictures[:frames]), whole[:, : timeline.latent_count(frames)])


def test_a_latent_sees_its_own_frames_only(pictures):
    whole = codec.encode(pictures[:21])
    for frame in (0, 1, 4, 5, 20):
        changed = pictures[:21].copy()
        changed[frame] = 255 - changed[frame]
        differs = (codec.encode(changed) != whole).any((0, 2, 3))
        assert np.flatnonzero(differs).tolist() == [timeline.latent_of_raw(frame)]


def test_streams_decode_to_the_same_bytes_as_the_whole(pictures):
    latents = codec.encode(pictures)
    whole = codec.decode(latents)
    streamed = codec.decode_stream(latents[:, j] for j in range(latents.shape[1]))
    assert all(np.array_equal(a, b) for a, b in itertools.zip_longest(whole, streamed))
    assert np.array_equal(
        codec.decode(latents[:, 5:9], first=5), whole[timeline.raw_range(5).start : timeline.raw_range(8).stop]
    )


def test_decoding_keeps_the_latent():
    """What the decoder adds is orthogonal to what it was given: encoding its pictures returns the latent."""
    rng = np.random.default_rng(1)
    latent = (0.3 * rng.standard_normal((16, 8, 12))).astype(np.float16)
    again = codec.encode_block(codec.decode_block(latent))
    # pictures are whole numbers: each coefficient may be off by the rounding of 768 of them
    np.testing.assert_allclose(
        again.astype(float) * codec.STD[:, None, None], latent.astype(float) * codec.STD[:, None, None], atol=3
    )


def test_good_real_clips_decode_to_34_db_and_about_unit_variance(good_clips):
    quality, moments = {}, []
    for name, clip in good_clips.items():
        pictures = list(clip.frames())
        found = []
        for j, latent in enumerate(codec.encode_stream(pictures)):
            covered = timeline.raw_range(j)
            found += [psnr(codec.decode_block(latent, still=j == 0), pictures[covered.start : covered.stop])] * len(
                covered
            )
            moments.append([latent.astype(float).mean((1, 2)), (latent.astype(float) ** 2).mean((1, 2))])
        quality[name] = np.mean(found)
    assert min(quality.values()) >= 34, quality
    mean, square = np.mean(moments, axis=0)
    assert np.abs(mean).max() < 0.5
    deviation = np.sqrt(square - mean**2)
    assert deviation.min() > 0.5
    assert deviation.max() < 2


def test_flat_colours_come_back_and_mirrored_pictures_stay_mirrored(pictures):
    for colour in ([0, 0, 0], [255, 255, 255], [200, 30, 90]):
        flat = np.broadcast_to(np.array(colour, np.uint8), (16, 24, 3))
        assert np.abs(codec.decode_block(codec.encode_still(flat), still=True)[0].astype(int) - colour).max() <= 1
    decoded = codec.decode(codec.encode(pictures[:5]))
    mirrored = codec.decode(codec.encode(pictures[:5, :, ::-1]))
    assert np.abs(mirrored[:, :, ::-1].astype(int) - decoded).max() <= 1


def test_latents_may_be_torch_tensors(pictures):
    import torch

    latents = codec.encode(pictures[:5])
    assert np.array_equal(codec.decode(torch.from_numpy(latents).float()), codec.decode(latents))


@pytest.mark.parametrize("shape", [(100, 64, 3), (64, 100, 3), (0, 8, 3)])
def test_sides_that_are_no_multiple_of_8_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        codec.encode_still(np.zeros(shape, np.uint8))


def test_a_latent_of_another_geometry_is_refused():
    with pytest.raises(ValueError, match=r"\[16,h,w\]"):
        codec.decode_block(np.zeros((4, 8, 8), np.float32))
