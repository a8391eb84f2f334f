"""Text embeddings: one per distinct caption, computed once. The encoder is a tiny one of the published structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from dualforce_model import weights
from dualforce_model.config import ConfigError
from dualforce_model.features import umt5
from dualforce_model.features.umt5 import Umt5Config
from dualforce_model.store import read_provenance, read_tensors

WORDS = ["<pad>", "</s>", "<unk>", "a", "person", "talks", "smiles", "and"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "root"))
    place = tmp_path / "root" / "umt5_xxl"
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    UMT5EncoderModel(config).save_pretrained(place / "text_encoder", max_shard_size="5KB")
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(
        place / "tokenizer"
    )
    files = [weights.registry.File(str(p.relative_to(place))) for p in sorted(place.rglob("*")) if p.is_file()]
    known = weights.WEIGHTS["umt5_xxl"]
    tiny = weights.registry.Weights(
        known.name, known.purpose, known.source, known.revision, tuple(files), known.licence
    )
    monkeypatch.setitem(weights.WEIGHTS, "umt5_xxl", tiny)
    return place


def test_each_caption_is_embedded_once(tmp_path, monkeypatch):
    made = []
    real = umt5.Encoder.__call__
    monkeypatch.setattr(umt5.Encoder, "__call__", lambda self, caption: made.append(caption) or real(self, caption))
    captions = ["a person talks", "a person smiles and talks", "a person talks"]
    config = Umt5Config(precision="float32")
    files = umt5.embed(captions, tmp_path / "text", config)
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


def test_long_captions_and_missing_weights_are_errors(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="3 tokens, 2 are allowed"):
        umt5.embed(["a person talks"], tmp_path / "text", Umt5Config(tokens=2, precision="float32"))
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(weights.MissingWeightsError, match="dualforce weights fetch umt5_xxl"):
        umt5.embed(["a"], tmp_path / "text", Umt5Config())


def test_the_published_encoder_has_the_size_that_the_model_expects():
    """UMT5-XXL on the meta device: its keys and sizes without its 22 GB."""
    from dualforce_model.configs.shape import ModelConfig

    xxl = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    with torch.device("meta"):
        model = UMT5EncoderModel(xxl)
    assert 5.5e9 < sum(p.numel() for p in model.parameters()) < 5.9e9
    assert xxl.d_model == ModelConfig.text_dim
