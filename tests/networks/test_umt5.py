"""Text embeddings: one per distinct caption, computed once. The encoder is a tiny one of the published structure."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_umt5
import torch
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from dualforce_model import weights
from dualforce_model.features import umt5
from dualforce_model.features.umt5 import Umt5Config
from dualforce_model.store import read_provenance, read_tensors


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return tiny_umt5.install(tmp_path / "root", monkeypatch)


def test_each_caption_is_embedded_once(tmp_path, monkeypatch):
    made = []
    real = umt5.Encoder.__call__
    monkeypatch.setattr(umt5.Encoder, "__call__", lambda self, caption: made.append(caption) or real(self, caption))
    captions = ["a person talks", "a person smiles and talks", "a person talks"]
    config = Umt5Config(precision="float32")
    files, refused = umt5.embed(captions, tmp_path / "text", config)
    assert not refused
    assert sorted(made) == sorted(set(captions))
    assert {p.name for p in (tmp_path / "text").iterdir()} == {f.name for f in files.values()}
    before = {f: f.read_bytes() for f in files.values()}
    umt5.embed([*captions, "a person"], tmp_path / "text", config)
    assert made[2:] == ["a person"]
    assert all(f.read_bytes() == data for f, data in before.items())
    text = read_tensors(files["a person talks"])["text"]
    assert text.dtype == np.float16
    assert text.shape == (3, 32)
    provenance = read_provenance(files["a person talks"])
    assert provenance["caption"] == "a person talks"
    assert provenance["weights"] == weights.digest("umt5_xxl")


def test_a_caption_that_is_too_long_is_refused_and_the_others_are_embedded(tmp_path, monkeypatch):
    config = Umt5Config(tokens=2, precision="float32")
    files, refused = umt5.embed(["a person talks", "a person"], tmp_path / "text", config)
    assert [path.is_file() for path in files.values()] == [True]
    assert list(files) == ["a person"]
    (verdict,) = refused.values()
    assert verdict.reason == "caption_too_long"
    assert "3 tokens, 2 are allowed" in str(verdict)
    # the second time nothing is left to embed, so the encoder itself is not read
    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", lambda *_, **__: pytest.fail("the encoder was read"))
    assert umt5.embed(["a person talks", "a person"], tmp_path / "text", config)[1].keys() == refused.keys()


def test_missing_weights_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(weights.MissingWeightsError, match="dualforce weights fetch umt5_xxl"):
        umt5.embed(["a"], tmp_path / "text", Umt5Config())


def test_an_encoder_that_lacks_a_weight_is_refused(tmp_path, folder):
    lost = "encoder.block.1.layer.0.SelfAttention.q.weight"
    (index,) = (folder / "text_encoder").glob("*.index.json")
    listed = json.loads(index.read_text())
    shard = folder / "text_encoder" / listed["weight_map"].pop(lost)
    index.write_text(json.dumps(listed))
    save_file({name: value for name, value in load_file(shard).items() if name != lost}, shard, {"format": "pt"})
    with pytest.raises(weights.WeightsError, match=r"does not fit UMT5's encoder: missing .*SelfAttention\.q\.weight"):
        umt5.embed(["a person talks"], tmp_path / "text", Umt5Config(precision="float32"))


def test_the_published_encoder_has_the_size_that_the_model_expects():
    """UMT5-XXL on the meta device: its keys and sizes without its 22 GB."""
    from dualforce_model.configs.shape import ModelConfig

    xxl = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        model = UMT5EncoderModel(xxl)
    assert 5.5e9 < sum(p.numel() for p in model.parameters()) < 5.9e9
    assert xxl.d_model == ModelConfig.text_dim
