"""The text that may steer a video: a caption, or its embedding made before."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dualforce_model.errors import BadInput


def read_text(text: str) -> np.ndarray:
    """Embedding [S,4096] float16 of a caption (needs the weights of UMT5), or of a `.safetensors` file with `text`.

    Raises BadInput no_text, caption_too_long; MissingWeightsError, which names the command that gets them.
    """
    if not text.strip():
        raise BadInput("no_text", "the text is empty; leave it out instead")
    if text.endswith(".safetensors"):
        from safetensors import SafetensorError

        from dualforce_model.store import read_tensors

        try:
            return read_tensors(Path(text))["text"]
        except (OSError, SafetensorError, KeyError, TypeError) as error:  # TypeError: bfloat16
            raise BadInput("no_text", f"{text} holds no text embedding: {error}") from error
    from dualforce_model import weights
    from dualforce_model.features import umt5

    return umt5.Encoder(weights.locate(umt5.WEIGHTS), umt5.Umt5Config())(text)
