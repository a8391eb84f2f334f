"""Starting the video tower from Wan 2.1 T2V 1.3B weights (Wan Team 2025), in the layout of diffusers.

`WanTransformer3DModel` has the same width (1536), heads (12 of 128), norms, rotary split and modulation; it has 30
blocks, 16 input channels and no audio. So: blocks are picked by `picked`, the 20 further input channels start at zero,
audio and bridge keep their silent start, and the noise level takes the place of the time step (sigma x 1000).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from dualforce_model.model.dualforce import DualForce
from dualforce_model.model.files import WeightsError

# ours, theirs; several of theirs are stacked along the outputs
TOWER: list[tuple[str, tuple[str, ...]]] = [
    ("text.hidden", ("condition_embedder.text_embedder.linear_1",)),
    ("text.out", ("condition_embedder.text_embedder.linear_2",)),
    ("noise.hidden", ("condition_embedder.time_embedder.linear_1",)),
    ("noise.out", ("condition_embedder.time_embedder.linear_2",)),
    ("noise.modulation", ("condition_embedder.time_proj",)),
    ("head.out", ("proj_out",)),
]
BLOCK: list[tuple[str, tuple[str, ...]]] = [
    ("attention.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
    ("attention.out", ("attn1.to_out.0",)),
    ("text.q", ("attn2.to_q",)),
    ("text.kv", ("attn2.to_k", "attn2.to_v")),
    ("text.out", ("attn2.to_out.0",)),
    ("norm_text", ("norm2",)),
    ("ffn_in", ("ffn.net.0.proj",)),
    ("ffn_out", ("ffn.net.2",)),
]
NORMS = [
    ("attention.norm_q", "attn1.norm_q"),
    ("attention.norm_k", "attn1.norm_k"),
    ("text.norm_q", "attn2.norm_q"),
    ("text.norm_k", "attn2.norm_k"),
]


def picked(ours: int, theirs: int) -> list[int]:
    """Which of `theirs` blocks become our `ours` blocks: evenly spaced, the first and the last among them.

    >>> picked(4, 10)
    [0, 3, 6, 9]
    """
    if ours > theirs:
        raise WeightsError(f"{ours} blocks cannot be picked out of {theirs}")
    if ours == 1:
        return [0]
    return [round(i * (theirs - 1) / (ours - 1)) for i in range(ours)]


def wan_state(folder: Path) -> dict[str, Tensor]:
    """All weights of a diffusers transformer folder (`diffusion_pytorch_model*.safetensors`)."""
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} holds no diffusion_pytorch_model*.safetensors")
    state: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as shard:
            state |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118  (not a mapping)
    return state


def start_from_wan(model: DualForce, wan: Mapping[str, Tensor]) -> list[str]:
    """Copy Wan's weights into the video tower; gives the names of the tower's weights that Wan does not have.

    Raises WeightsError when a weight is missing, has another shape, or is one that no rule here knows.
    """
    depth = 1 + max((int(name.split(".")[1]) for name in wan if name.startswith("blocks.")), default=-1)
    chosen = picked(len(model.video.blocks), depth)
    target = dict(model.video.named_parameters())
    used: set[str] = set()
    filled: set[str] = set()

    def theirs(name: str) -> Tensor:
        if name not in wan:
            raise WeightsError(f"these are not Wan weights in the diffusers layout: {name!r} is missing")
        used.add(name)
        return wan[name]

    def put(name: str, value: Tensor) -> None:
        if target[name].shape != value.shape:
            raise WeightsError(f"{name} is {tuple(target[name].shape)}, Wan's {tuple(value.shape)}")
        with torch.no_grad():
            target[name].copy_(value)
        filled.add(name)

    for ours, names in _rules(chosen):
        put(ours, torch.cat([theirs(name) for name in names]))
    for i, block in enumerate(chosen):
        put(f"blocks.{i}.modulation", theirs(f"blocks.{block}.scale_shift_table")[0])
    put("head.modulation", theirs("scale_shift_table")[0])
    put("embed.weight", _widened(theirs("patch_embedding.weight"), model))
    put("embed.bias", theirs("patch_embedding.bias"))
    left_out = {name for name in wan if name.startswith("blocks.") and int(name.split(".")[1]) not in chosen}
    unknown = sorted(set(wan) - used - left_out)
    if unknown:
        raise WeightsError(f"no rule for Wan's {unknown[0]!r} ({len(unknown)} such weights)")
    return sorted(set(target) - filled)


def _rules(chosen: Iterable[int]) -> Iterator[tuple[str, list[str]]]:
    """Our parameter's name and theirs, for all that is copied as it is or stacked."""
    for kind in ("weight", "bias"):
        for ours, names in TOWER:
            yield f"{ours}.{kind}", [f"{name}.{kind}" for name in names]
        for i, block in enumerate(chosen):
            for ours, names in BLOCK:
                yield f"blocks.{i}.{ours}.{kind}", [f"blocks.{block}.{name}.{kind}" for name in names]
    for i, block in enumerate(chosen):
        for ours, name in NORMS:
            yield f"blocks.{i}.{ours}.weight", [f"blocks.{block}.{name}.weight"]


def _widened(kernel: Tensor, model: DualForce) -> Tensor:
    """Wan's patch convolution [D,16,1,p,p] as our linear layer [D,36·p·p]: further channels weigh zero at first."""
    if kernel.ndim != 5 or kernel.shape[2] != 1 or kernel.shape[3] != model.config.patch:
        raise WeightsError(f"the patch convolution is {tuple(kernel.shape)}, not 1x{model.config.patch}x..")
    known = kernel[:, :, 0]  # D,16,p,p
    silent = known.new_zeros(known.shape[0], model.config.video_inputs - known.shape[1], *known.shape[2:])
    return torch.cat([known, silent], 1).flatten(1)
