"""What a stream hears is what was extracted for training, whichever ear it has; what it paints is what is decoded whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dualforce_model.errors import BadInput
from dualforce_model.features import codec, hubert
from dualforce_model.features.audio_features import AudioFeaturesConfig, LogMel, features_of
from dualforce_model.generate.painter import Painter
from dualforce_model.generate.voice import Voice
from dualforce_model.model import audio_window
from tests.model.support import tiny

FRAMES = 61


@pytest.fixture(scope="module")
def small_hubert(tmp_path_factory):
    """A small HuBERT of random weights, in stretches of 16 features."""
    from transformers import HubertConfig as Published
    from transformers import HubertModel

    from dualforce_model.features.networks.hubert import network

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    like_large = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(Published(conv_dim=(8,) * 7, **sizes, **like_large)).save_pretrained(folder)
    config = hubert.HubertConfig(layer=2, width=32, block=16, left=24, right=8, batch=2, precision="float32")
    return config, network(folder, config)


@pytest.mark.parametrize("backend", ["log_mel", "hubert"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_windows_are_those_of_the_extracted_features(backend, chunk, small_hubert, clip):
    sound = clip.audio()[: FRAMES * 640]
    if backend == "hubert":
        config, network = small_hubert
        whole, ear, width = hubert.features_of(sound, config, network), hubert.HubertStream(config, network), 32
    else:
        mel = AudioFeaturesConfig()
        whole, ear, width = features_of(sound, mel), LogMel(mel), 80
    model = tiny(audio_dim=width)
    voice = Voice(ear, model, lambda features: features * 2 + 1)
    rng, at, latent, heard = np.random.default_rng(0), 0, 0, []

    def listen():
        nonlocal latent
        while voice.covers(latent, chunk) and latent < 16:
            heard.append((latent, *voice.window(latent, chunk)))
            latent += chunk

    while at < len(sound):
        piece = sound[at : at + int(rng.integers(1, 3000))]
        at += len(piece)
        voice.push(piece)
        listen()
    before = len(heard)
    voice.finish()
    listen()
    assert 0 < before < len(heard)
    for first, audio, valid in heard:
        expected, exists = audio_window(torch.from_numpy(whole * 2 + 1), first, chunk, model)
        np.testing.assert_array_equal(valid, exists.numpy())
        np.testing.assert_allclose(audio, expected.numpy(), atol=1e-5 if backend == "hubert" else 0)


def test_a_last_frame_in_part_is_filled_with_silence(clip):
    sound = clip.audio()[: 7 * 640 + 99]
    voice = Voice(LogMel(AudioFeaturesConfig()), tiny(audio_dim=80), lambda features: features)
    voice.push(sound)
    voice.finish()
    assert (voice.length, voice.latents) == (8, 3)
    padded = np.zeros(8 * 640, np.float32)
    padded[: len(sound)] = sound
    expected, exists = audio_window(
        torch.from_numpy(features_of(padded, AudioFeaturesConfig())), 1, 2, tiny(audio_dim=80)
    )
    audio, valid = voice.window(1, 2)
    np.testing.assert_array_equal(audio, expected.numpy())
    np.testing.assert_array_equal(valid, exists.numpy())


def test_sound_that_is_no_float_is_refused():
    """Whole numbers of full scale 32768 would be taken for a sound that is 32768 times as loud."""
    voice = Voice(LogMel(AudioFeaturesConfig()), tiny(audio_dim=80), lambda features: features)
    for sound in (np.ones(640, np.int16), np.full(640, np.nan, np.float32), np.ones((640, 2), np.float32)):
        with pytest.raises(BadInput) as error:
            voice.push(sound)
        assert error.value.reason == "bad_audio"
    voice.push(np.ones(640))
    assert voice.samples == 640


def test_memory_is_bounded(clip):
    voice = Voice(LogMel(AudioFeaturesConfig()), tiny(audio_dim=80), lambda features: features)
    held, latent = [], 0
    for _ in range(40):
        voice.push(clip.audio()[:16000])
        while voice.covers(latent, 1):
            voice.window(latent, 1)
            latent += 1
        held.append(voice.held)
    assert latent > 240
    assert max(held) < 50


def latents(count: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 16, side, side)).astype(np.float32)


def test_block_dct_paints_what_it_decodes_whole():
    given = latents(5)
    painter = Painter(lambda latent, index: codec.decode_block(latent, still=index == 0), torch.device("cpu"))
    jobs = [painter.start(torch.from_numpy(latent), index) for index, latent in enumerate(given)]
    np.testing.assert_array_equal(
        np.concatenate([job.result().pictures for job in jobs]), codec.decode(given.swapaxes(0, 1))
    )
    painter.close()


def test_painters_that_share_a_thread_drop_their_own_work_alone():
    begun, go_on = threading.Event(), threading.Event()

    def decode(latent, index):
        begun.set()
        assert go_on.wait(30)
        return np.zeros((1, 1, 1, 3), np.uint8)

    thread, cpu = ThreadPoolExecutor(1), torch.device("cpu")
    one, other = (Painter(decode, cpu, thread) for _ in range(2))
    jobs = [painter.start(torch.zeros(1), 0) for painter in (one, other, one)]
    assert begun.wait(30)
    closing = threading.Thread(target=one.close)
    closing.start()
    go_on.set()
    closing.join(30)
    assert jobs[1].result(30).pictures.shape == (1, 1, 1, 3)  # still painted, by a thread that goes on
    assert not closing.is_alive()
    assert jobs[0].done()
    other.close()
    thread.submit(int).result(30)
    thread.shutdown()


def test_wan_paints_what_it_decodes_whole(tmp_path, monkeypatch):
    """Its causal memory is carried from latent to latent, never begun again: tolerance, one grey level."""
    from diffusers import AutoencoderKLWan

    from dualforce_model.features import wan_vae

    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("DUALFORCE_DEVICE", "cpu")
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=4).save_pretrained(tmp_path / "wan_vae" / "vae")
    wan_vae.load.cache_clear()
    config, given = wan_vae.WanVaeConfig(chunk=4, precision="float32"), latents(6)
    whole = np.stack(list(wan_vae.decode(given, config)))
    painters = [Painter(wan_vae.painter(config), torch.device("cpu")) for _ in range(2)]  # two clips at once
    jobs = [(painters[0].start(torch.from_numpy(x), i), painters[1].start(torch.from_numpy(-x), i)) for i, x in
            enumerate(given)]  # fmt: skip
    painted = np.concatenate([job.result().pictures for job, _ in jobs])
    wan_vae.load.cache_clear()
    assert painted.shape == whole.shape == (21, 32, 32, 3)
    assert np.abs(painted.astype(int) - whole).max() <= 1
    alone = np.concatenate([wan_vae.painter(config)(latent, 1) for latent in given[3:4]])
    assert np.abs(painted[9:13].astype(int) - alone[-1:]).max() > 1  # without its past a latent looks otherwise
