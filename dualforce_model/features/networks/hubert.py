"""HuBERT (Hsu et al. 2021) through transformers: stretches of sound to the features of their middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dualforce_model.features.networks.complete import require_complete
from dualforce_model.features.networks.device import dtype_of, numbers, pick
from dualforce_model.weights import WeightsError

SILENT = 1e-7  # added to the variance, as HuBERT's own feature extractor does

if TYPE_CHECKING:
    from dualforce_model.features.hubert import HubertConfig, Network


def network(folder: Path, config: HubertConfig) -> Network:
    """The function of `features.hubert` that runs the weights in `folder`. Raises WeightsError."""
    from transformers import HubertModel

    try:
        loaded: Any = HubertModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder} holds no HuBERT that can be read: {error}") from error
    model, report = loaded
    require_complete(report, folder, "HuBERT", spare=("masked_spec_embed",))  # for its training alone
    return run(model, config, str(folder))


def run(model: Any, config: HubertConfig, where: str) -> Network:
    """The same of a loaded `HubertModel`."""
    depth, width = model.config.num_hidden_layers, model.config.hidden_size
    if config.layer_weights and len(config.layer_weights) != depth + 1:
        raise WeightsError(f"{where} has {depth + 1} layers to weigh, layer_weights has {len(config.layer_weights)}")
    if (config.layer > depth and not config.layer_weights) or config.width != width:
        raise WeightsError(
            f"{where} has layers 0..{depth} of {width} numbers; configured: {config.layer}, {config.width}"
        )
    device, dtype = pick(), dtype_of(config.precision)
    last = depth if config.layer_weights else config.layer
    del model.encoder.layers[last + 1 :]  # of a middle layer, the one after it is kept: its input is the wanted output
    model = model.to(device, dtype).eval().requires_grad_(False)
    share = torch.tensor(config.layer_weights or [0.0], device=device)
    middle = slice(config.left, config.left + config.block)

    def features(stretches: np.ndarray, inside: np.ndarray) -> Callable[[], np.ndarray]:
        with numbers(config.precision):
            sound, where_from = torch.from_numpy(stretches), torch.from_numpy(inside)
            if device.type == "cuda":
                sound = sound.pin_memory().to(device, non_blocking=True)
            found = model(
                normalised(sound, where_from.to(device)).to(dtype),
                output_hidden_states=bool(config.layer_weights) or last < depth,
            )
            if config.layer_weights:
                layers = (*found.hidden_states[:-1], found.last_hidden_state)  # the last one with its norm
                out = torch.stack([layer[:, middle].float() for layer in layers], -1) @ share
            else:
                out = (found.hidden_states[last] if last < depth else found.last_hidden_state)[:, middle].float()
            if device.type == "cuda":
                out = out.to("cpu", non_blocking=True)
                ready = torch.cuda.Event()
                ready.record()

        def wait() -> np.ndarray:
            if device.type == "cuda":
                ready.synchronize()
            return out.numpy()  # type: ignore[no-any-return]

        return wait

    return features


def normalised(sound: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Stretches [B,n] with mean 0 and variance 1 over the samples [first, last) that hold sound; 0 elsewhere."""
    at = torch.arange(sound.shape[1], device=sound.device)
    mask = (at >= inside[:, :1]) & (at < inside[:, 1:])
    count = mask.sum(1, keepdim=True).clamp(min=1)
    centred = (sound - sound.sum(1, keepdim=True) / count) * mask  # it is zero elsewhere
    return centred / (centred.square().sum(1, keepdim=True) / count + SILENT).sqrt()
