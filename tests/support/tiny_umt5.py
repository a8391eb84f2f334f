"""A UMT5 encoder of random weights and a tokenizer of a few words, in the layout that Wan publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from dualforce_model import weights

WORDS = ["<pad>", "</s>", "<unk>", "a", "person", "talks", "smiles", "and"]
WIDTH = 32


def install(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put it below `root` as the weights `umt5_xxl`, in which `dualforce_model.weights` then believes; its folder."""
    monkeypatch.setenv("DUALFORCE_WEIGHTS", str(root))
    place = root / "umt5_xxl"
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=len(WORDS), d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
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
