"""The training loss: L = L_video + 0.5 L_struct + 0.1 L_flame + w_lip L_lip, each in fp32 and masked to what is real.

B batch, F latent frames, 4 struct slots per latent, P FLAME parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dualforce_model.configs.forcing import LossWeights

DECILES = 10


@dataclass
class Terms:
    """The weighted sum, its unweighted terms, and per stream the loss by tenth of sigma: sums and counts [2,10].

    Sums and counts of several batches add up; `decile_means` makes means of them.
    """

    total: Tensor
    terms: dict[str, Tensor]
    deciles: dict[str, Tensor] = field(default_factory=dict)


def masked_mean(value: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean of `value` where `mask`, 0 where nothing is: a batch without a measurable frame moves nothing.

    With `count`, the sum over that instead: the part of a larger batch in the mean of the whole.
    """
    count = mask.to(value.dtype).sum() if count is None else count
    # where, not product: a padded frame may hold anything, a NaN too
    return torch.where(mask, value, 0.0).sum() / count.clamp(min=1.0)


def by_decile(value: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """Sum and count of value [B,F] per tenth of sigma [B,F], where mask [B,F]: [2,10]."""
    bucket = (sigma * DECILES).long().clamp(0, DECILES - 1).flatten()
    weight = mask.float().flatten()  # weights, not a selection: a selection would wait for the GPU to count it
    seen = torch.where(mask, value.detach().float(), 0.0).flatten()
    total = torch.zeros(DECILES, device=value.device).index_add_(0, bucket, seen)
    count = torch.zeros(DECILES, device=value.device).index_add_(0, bucket, weight)
    return torch.stack([total, count])


def decile_means(sums: Tensor) -> Tensor:
    """Means [10] of sums and counts [2,10]; NaN for a tenth without a frame."""
    total, count = sums
    return total / count.where(count > 0, torch.full_like(count, float("nan")))


def losses(
    *,
    weights: LossWeights,
    video: Tensor,
    video_target: Tensor,
    video_mask: Tensor,
    sigma_video: Tensor,
    struct: Tensor | None = None,
    struct_target: Tensor | None = None,
    struct_mask: Tensor | None = None,
    sigma_struct: Tensor | None = None,
    flame: Tensor | None = None,
    flame_target: Tensor | None = None,
    flame_mask: Tensor | None = None,
    lip: Tensor | None = None,
    counts: Mapping[str, Tensor] | None = None,
) -> Terms:
    """Terms of one step.

    video, video_target [B,16,F,H,W] velocities, video_mask [B,F]: real, not given, valid frames. struct, struct_target
    [B,F,4,72], struct_mask [B,F,4]. flame [B,F,4,P] read from the clean estimate and flame_target, both standardised,
    flame_mask [B,F,4]: weighed by (1 - sigma_struct)^2, because at high noise the estimate cannot know them. lip: a
    scalar from a frozen `LipScorer`. counts: per term what to divide by, instead of the size of its own mask: for a part
    of a batch, so that the parts sum to the mean of the whole.
    """
    counts = counts or {}
    per_frame = (video.float() - video_target.float()).square().mean(dim=(1, 3, 4))
    terms = {"video": masked_mean(per_frame, video_mask, counts.get("video"))}
    deciles = {"video": by_decile(per_frame, sigma_video, video_mask)}
    if struct is not None:
        assert struct_target is not None
        assert struct_mask is not None
        assert sigma_struct is not None
        per_slot = (struct.float() - struct_target.float()).square().mean(-1)
        terms["struct"] = masked_mean(per_slot, struct_mask, counts.get("struct"))
        there = struct_mask.float().sum(-1)
        per_latent = torch.where(struct_mask, per_slot, 0.0).sum(-1) / there.clamp(min=1.0)
        deciles["struct"] = by_decile(per_latent, sigma_struct, there > 0)
        if flame is not None and flame_target is not None and flame_mask is not None and weights.flame:
            error = (flame.float() - flame_target.float()).square().mean(-1)
            known = error * (1 - sigma_struct[..., None]).square()
            terms["flame"] = masked_mean(known, flame_mask, counts.get("flame"))
    if lip is not None and weights.lip:
        terms["lip"] = lip.float()
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return Terms(total, terms, deciles)


def gradient_norms(terms: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """Norm of each term's own gradient. One backward pass per term: call it now and then, before `backward`."""
    wanted = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, term in terms.items():
        found = torch.autograd.grad(term, wanted, retain_graph=True, allow_unused=True)
        squares = [g.float().square().sum() for g in found if g is not None]
        norms[name] = torch.stack(squares).sum().sqrt() if squares else torch.zeros((), device=term.device)
    return norms
