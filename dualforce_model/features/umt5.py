"""Text embeddings by UMT5's encoder: one file per distinct caption, however many clips it describes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dualforce_model import config as configs
from dualforce_model import weights
from dualforce_model.store import digest_bytes, identity, intact, write_tensors

VERSION = "1"
WEIGHTS = "umt5_xxl"


@dataclass(frozen=True)
class Umt5Config:
    """Captions longer than `tokens` are refused; `precision` of the network's numbers."""

    tokens: int = 512
    precision: Literal["float32", "bfloat16"] = "bfloat16"


def name_of(caption: str) -> str:
    """The file name of a caption's embedding."""
    return f"{digest_bytes(caption.encode())[:32]}.safetensors"


def embed(captions: Iterable[str], folder: Path, config: Umt5Config) -> dict[str, Path]:
    """Caption -> file with `text` [S,D] float16, its S real tokens; only those not yet in `folder` are computed.

    Raises MissingWeightsError, WeightsError; ConfigError for a caption of more than `config.tokens` tokens.
    """
    distinct = sorted(set(captions))
    files = {caption: folder / name_of(caption) for caption in distinct}
    if not distinct:
        return files
    digest, settings = weights.digest(WEIGHTS), configs.to_dict(config)
    identities = {
        caption: identity(text=caption, version=VERSION, config=settings, weights=digest) for caption in distinct
    }
    wanted = [caption for caption in distinct if not intact(files[caption], identities[caption])]
    if not wanted:
        return files
    encoder = Encoder(weights.locate(WEIGHTS), config)
    for caption in wanted:
        provenance = {
            "identity": identities[caption],
            "feature": "text",
            "backend": "umt5",
            "version": VERSION,
            "weights": digest,
            "config": settings,
            "caption": caption,
        }
        write_tensors(files[caption], {"text": encoder(caption)}, provenance)
    return files


class Encoder:
    """UMT5's encoder and its tokenizer from a folder with `text_encoder/` and `tokenizer/`, as Wan publishes them."""

    def __init__(self, folder: Path, config: Umt5Config):
        from transformers import AutoTokenizer, UMT5EncoderModel

        from dualforce_model.features.networks.device import dtype_of, pick

        self._config, self._device = config, pick()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer")
            model: Any = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype_of(config.precision))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise weights.WeightsError(f"{folder} holds no UMT5 encoder with its tokenizer: {error}") from error
        self._model: Any = model.to(self._device).eval()

    def __call__(self, caption: str) -> np.ndarray:
        """Embedding [S,D] float16 of a caption, alone and so without padding. Raises ConfigError, WeightsError."""
        from dualforce_model.features.networks.device import numbers

        tokens = self._tokenizer(caption, return_tensors="pt").input_ids
        if tokens.shape[1] > self._config.tokens:
            raise configs.ConfigError(
                f"a caption has {tokens.shape[1]} tokens, {self._config.tokens} are allowed: {caption[:60]!r}…"
            )
        with numbers(self._config.precision):
            text = self._model(input_ids=tokens.to(self._device)).last_hidden_state[0].half().cpu().numpy()
        if not np.isfinite(text).all():
            raise weights.WeightsError(f"UMT5 gives numbers beyond float16 for {caption[:60]!r}")
        return text
