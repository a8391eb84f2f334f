"""HuBERT in fixed stretches: streaming equals extraction, the chosen layers are the published ones, full size loads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import HubertConfig as Published
from transformers import HubertModel

from dualforce_model.config import ConfigError
from dualforce_model.features.hubert import HOP, MARGIN, HubertConfig, HubertStream, features_of
from dualforce_model.features.networks import hubert
from dualforce_model.weights import WeightsError

LAYERS, WIDTH = 4, 32
LARGE = {
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}  # as facebook/hubert-large-ll60k
STRETCH = {"block": 16, "left": 24, "right": 8, "batch": 3, "width": WIDTH, "precision": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    small = Published(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        **LARGE,
    )
    folder = tmp_path_factory.mktemp("hubert")
    HubertModel(small).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sound():
    rng = np.random.default_rng(0)
    return (rng.standard_normal(640 * 61) * np.linspace(0, 0.3, 640 * 61)).astype(np.float32)


def test_streaming_equals_extraction(folder, sound):
    config = HubertConfig(layer=LAYERS, **STRETCH)
    network = hubert.network(folder, config)
    whole = features_of(sound, config, network)
    assert whole.shape == (2 * 61, WIDTH)
    stream, rng, at, pieces, seen = HubertStream(config, network), np.random.default_rng(1), 0, [], []
    while at < len(sound):
        piece = sound[at : at + int(rng.integers(1, 5000))]
        at += len(piece)
        pieces.append(stream.push(piece))
        seen.append((at, sum(map(len, pieces))))
    pieces.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
    late = max(taken - (given * HOP) for taken, given in seen)
    assert late <= (2 * config.block + config.right) * HOP + MARGIN + 5000


def test_the_end_of_the_sound_does_not_matter_to_what_is_complete(folder, sound):
    config = HubertConfig(layer=LAYERS, **STRETCH)
    network = hubert.network(folder, config)
    part = HubertStream(config, network).push(sound[: 640 * 40])
    np.testing.assert_allclose(part, features_of(sound, config, network)[: len(part)], atol=1e-5)
    assert len(part) == 64


@pytest.mark.parametrize("layer", [0, 2, LAYERS])
def test_layers_are_those_of_the_whole_network(folder, sound, layer):
    config = HubertConfig(layer=layer, **STRETCH)
    stretch = sound[: config.stretch][None].repeat(3, 0)
    whole = HubertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        sound_at = np.tile([0, config.stretch], (3, 1))
        stretch = hubert.normalised(torch.from_numpy(stretch), torch.from_numpy(sound_at)).numpy()
        outputs = whole(torch.from_numpy(stretch), output_hidden_states=True)
        expected = (*outputs.hidden_states[:-1], outputs.last_hidden_state)
        got = hubert.network(folder, config)(stretch, sound_at)()
        weighted = HubertConfig(layer_weights=(0.5, 0, 0.25, 0, 0.25), **STRETCH)
        mixed = hubert.network(folder, weighted)(stretch, sound_at)()
    middle = slice(config.left, config.left + config.block)
    np.testing.assert_allclose(got, expected[layer][:, middle], atol=1e-5)
    mix = 0.5 * expected[0] + 0.25 * expected[2] + 0.25 * expected[4]
    np.testing.assert_allclose(mixed, mix[:, middle], atol=1e-5)


def test_an_event_is_felt_where_it_is(folder):
    """A click in feature k's 20 ms changes the convolutions' output (layer 0) most at k."""
    config = HubertConfig(layer=0, **(STRETCH | {"right": 16}))
    network = hubert.network(folder, config)
    quiet = np.random.default_rng(2).standard_normal(640 * 24).astype(np.float32) * 1e-3
    loud = quiet.copy()
    loud[HOP * 20 + HOP // 2] += 0.02
    change = np.linalg.norm(features_of(loud, config, network) - features_of(quiet, config, network), axis=1)
    assert abs(int(change.argmax()) - 20) <= 1


def test_normalised_is_what_the_published_feature_extractor_does(sound):
    from transformers import Wav2Vec2FeatureExtractor

    part = sound[30_000:34_000]
    padded = np.zeros((1, 6000), np.float32)
    padded[0, 500:4500] = part
    got = hubert.normalised(torch.from_numpy(padded), torch.tensor([[500, 4500]]))[0]
    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(
        part, sampling_rate=16_000, return_tensors="np"
    ).input_values[0]
    np.testing.assert_allclose(got[500:4500], expected, atol=1e-5)
    assert not got[:500].any()
    assert not got[4500:].any()


def test_wrong_weights_and_configs_are_named(folder, tmp_path):
    with pytest.raises(WeightsError, match=r"layers 0\.\.4 of 32 numbers; configured: 24, 1024"):
        hubert.network(folder, HubertConfig())
    with pytest.raises(WeightsError, match="5 layers to weigh"):
        hubert.network(folder, HubertConfig(layer_weights=(1.0,), **STRETCH))
    with pytest.raises(WeightsError, match="holds no HuBERT"):
        hubert.network(tmp_path, HubertConfig())
    with pytest.raises(ConfigError, match="multiple of 8"):
        HubertConfig(block=12)


def test_full_size_loads_from_the_official_layout(tmp_path):
    """HuBERT-Large as published: config.json and pytorch_model.bin."""
    large = Published(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, **LARGE)
    with torch.device("meta"):
        shapes = HubertModel(large)
    state = {key: torch.zeros(value.shape).fill_(0.01) for key, value in shapes.state_dict().items()}
    assert 310e6 < sum(v.numel() for v in state.values()) < 320e6
    large.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    del state, shapes
    config = HubertConfig(layer=12, block=8, left=8, right=8, batch=1, precision="float32")
    sound = np.random.default_rng(0).standard_normal((1, config.stretch)).astype(np.float32)
    got = hubert.network(tmp_path, config)(sound, np.array([[0, config.stretch]]))()
    assert got.shape == (1, 8, 1024)
    assert np.isfinite(got).all()
