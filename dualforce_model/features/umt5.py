"""Text embeddings by UMT5's encoder: one file per distinct caption, however many clips it describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dualforce_model import config as configs
from dualforce_model import weights
from dualforce_model.errors import BadInput
from dualforce_model.store import digest_bytes, identity, intact, write_tensors

VERSION = "1"
WEIGHTS = "umt5_xxl"


@dataclass(frozen=True)
class Umt5Config:
    """How captions are embedded.

    tokens      longer captions are refused
    precision   of the network's numbers
    """

    tokens: int = 512
    precision: Literal["float32", "bfloat16"] = "bfloat16"


class Embedded(NamedTuple):
    """The file of each caption, and of those that can't be embedded the verdict."""

    files: dict[str, Path]
    refused: dict[str, BadInput]


def name_of(caption: str) -> str:
    """The file name of a caption's embedding."""
    return f"{digest_bytes(caption.encode())[:32]}.safetensors"


def embed(
    captions: Iterable[str],
    folder: Path,
    config: Umt5Config,
    reuse: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Files with `text` [S,D] float16, a caption's S real tokens; with `reuse` only those not yet in `folder` are computed.

    `progress` hears how many distinct captions are done, of how many. Refused (caption_too_long) are captions of more than
    `config.tokens` tokens. Raises MissingWeightsError, WeightsError.
    """
    distinct = sorted(set(captions))
    made = Embedded({caption: folder / name_of(caption) for caption in distinct}, {})
    if not distinct:
        return made
    digest, settings = weights.digest(WEIGHTS), configs.to_dict(config)
    identities = {
        caption: identity(text=caption, version=VERSION, config=settings, weights=digest) for caption in distinct
    }
    wanted = [text for text in distinct if not (reuse and intact(made.files[text], identities[text]))]
    if not wanted:
        return made
    encoder = Encoder(weights.locate(WEIGHTS), config)
    for number, caption in enumerate(wanted, len(distinct) - len(wanted)):
        progress(number, len(distinct))
        try:
            text = encoder(caption)
        except BadInput as verdict:
            made.refused[caption] = verdict
            del made.files[caption]
            continue
        provenance = {
            "identity": identities[caption],
            "feature": "text",
            "backend": "umt5",
            "version": VERSION,
            "weights": digest,
            "config": settings,
            "caption": caption,
        }
        write_tensors(made.files[caption], {"text": text}, provenance)
    encoder.close()
    return made


@contextmanager
def _read_from(folder: Path) -> Iterator[None]:
    """What can't be read in the block is a WeightsError that names the folder."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise weights.WeightsError(f"{folder} holds no UMT5 encoder with its tokenizer: {error}") from error


class Encoder:
    """UMT5's encoder and its tokenizer from a folder with `text_encoder/` and `tokenizer/`, as Wan publishes them.

    The encoder itself, 11 GB of bfloat16, is read for the first caption that is not refused.
    """

    def __init__(self, folder: Path, config: Umt5Config):
        from transformers import AutoTokenizer

        self._folder, self._config = folder, config
        with _read_from(folder):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer")

    @cached_property
    def _model(self) -> Any:
        from transformers import UMT5EncoderModel

        from dualforce_model.features.networks.complete import require_complete
        from dualforce_model.features.networks.device import dtype_of, pick

        dtype = dtype_of(self._config.precision)
        with _read_from(self._folder):
            loaded: Any = UMT5EncoderModel.from_pretrained(
                self._folder / "text_encoder", dtype=dtype, output_loading_info=True
            )
        model, report = loaded
        require_complete(report, self._folder / "text_encoder", "UMT5's encoder")
        return model.to(pick()).eval()

    def __call__(self, caption: str) -> np.ndarray:
        """Embedding [S,D] float16 of a caption, alone and so without padding.

        Raises BadInput caption_too_long, WeightsError.
        """
        from dualforce_model.features.networks.device import numbers

        tokens = self._tokenizer(caption, return_tensors="pt").input_ids
        if tokens.shape[1] > self._config.tokens:
            raise BadInput(
                "caption_too_long",
                f"the caption has {tokens.shape[1]} tokens, {self._config.tokens} are allowed: {caption[:60]!r}…",
            )
        model = self._model
        with numbers(self._config.precision):
            text = model(input_ids=tokens.to(model.device)).last_hidden_state[0].half().cpu().numpy()
        if not np.isfinite(text).all():
            raise weights.WeightsError(f"UMT5 gives numbers beyond float16 for {caption[:60]!r}")
        return text

    def close(self) -> None:
        """Give the encoder's memory back to the machine: whoever trains on its GPU next is another process."""
        import torch

        self.__dict__.pop("_model", None)
        torch.cuda.empty_cache()
