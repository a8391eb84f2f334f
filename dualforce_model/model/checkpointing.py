"""Activation checkpointing, a choice per block: what backward remembers, and what it computes again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# none: keep all. selective: keep the attention and what linear layers give back to the residual stream, compute the
# rest again (norms, rotary, the wide part of the feed-forward). full: keep the block's input alone.
Checkpointing = Literal["none", "selective", "full"]


def _keep(_context: Any, op: Any, *args: Any, **_: Any) -> CheckpointPolicy:
    if op is torch.ops.dualforce.triangle.default:
        return CheckpointPolicy.MUST_SAVE
    if op in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
        weight = args[-1]
        if weight.shape[1] <= 3 * weight.shape[0]:  # all but the wide part: it is large to keep and cheap to redo
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def checkpointed(function: Callable[..., Tensor], kind: Checkpointing, *given: Any) -> Tensor:
    """`function(*given)`, remembered as `kind` says. Same value and, but for roundings under autocast, same gradients."""
    if kind == "none":
        return function(*given)
    if kind == "full":
        return checkpoint(function, *given, use_reentrant=False)
    if not torch.compiler.is_compiling():
        function = partial(_casting_anew, function)
    contexts = partial(create_selective_checkpoint_contexts, _keep)
    return checkpoint(function, *given, use_reentrant=False, context_fn=contexts)


def _casting_anew(function: Callable[..., Tensor], x: Tensor, *given: Any) -> Tensor:
    """Under autocast, without the casts that were made outside: backward does not find them, and would miscount."""
    kind = x.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.autocast(kind, dtype, enabled, cache_enabled=False):
        return function(x, *given)
