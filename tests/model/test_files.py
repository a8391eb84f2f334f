"""Model files: what is saved is what is loaded, and whatever does not fit is an error that says which."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dualforce_model.config import ConfigError
from dualforce_model.model import WeightsError, from_pretrained, save_pretrained
from tests.model.support import inputs, nudged, odd, tiny


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 200_000], ids=["one file", "shards"])
def test_a_model_survives_a_round_trip(tmp_path, shard_bytes):
    config = odd()
    model = nudged(config)
    save_pretrained(model, tmp_path, shard_bytes=shard_bytes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_bytes < 1_000_000)
    again = from_pretrained(tmp_path, config)
    assert not any(p.is_meta for p in again.parameters())
    assert all(p.requires_grad for p in again.parameters())
    given = inputs(config, 1, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.eval()(*vars(given).values()).video, given.through(again).video)


def test_saving_over_a_sharded_model_leaves_nothing_of_it(tmp_path):
    save_pretrained(nudged(tiny()), tmp_path, shard_bytes=100_000)
    save_pretrained(nudged(odd()), tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["config.json", "model.safetensors"]
    assert from_pretrained(tmp_path).config == odd()


def test_averaged_weights_can_be_saved_instead(tmp_path):
    model = nudged(tiny())
    save_pretrained(model, tmp_path, weights={k: v * 0.5 for k, v in model.state_dict().items()})
    loaded = from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[k], v * 0.5) for k, v in model.state_dict().items())


def test_half_precision_on_request(tmp_path):
    save_pretrained(nudged(tiny()), tmp_path)
    assert {p.dtype for p in from_pretrained(tmp_path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_what_does_not_fit_is_said(tmp_path):
    save_pretrained(nudged(tiny()), tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)

    def with_weights(weights):
        save_file(weights, file)
        return lambda: from_pretrained(tmp_path)

    with pytest.raises(WeightsError, match="'surprise'"):
        with_weights({**state, "surprise": torch.zeros(1)})()
    with pytest.raises(WeightsError, match=r"lacks 1 weights, the first 'video\.embed\.bias'"):
        with_weights({k: v for k, v in state.items() if k != "video.embed.bias"})()
    with pytest.raises(WeightsError, match=r"video\.embed\.bias is \(3,\)"):
        with_weights({**state, "video.embed.bias": torch.zeros(3)})()
    save_file(state, file)
    with pytest.raises(WeightsError, match="bridge"):
        from_pretrained(tmp_path, tiny("bridge.depth=2"))
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "depth": 3}))
    with pytest.raises(ConfigError, match="depth"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="no model"):
        from_pretrained(tmp_path)


def test_a_missing_shard_is_said(tmp_path):
    save_pretrained(nudged(tiny()), tmp_path, shard_bytes=200_000)
    next(iter(sorted(tmp_path.glob("model-00002*")))).unlink()
    with pytest.raises(WeightsError, match="model-00002"):
        from_pretrained(tmp_path)
