"""Where the video tokens and the heads of one pass are: all here, or spread over processes that share its sequence.

B batch, F frames, N video tokens per frame, n of them here, H heads, h of them here, d head dim.

Every process holds the same n-th of the tokens of every frame, so masks, modulations and sound, which go by frame, are
the same everywhere. Attention wants all tokens: tokens and heads are exchanged before it and back after it, and between
the two nothing is different from one process alone, but for the number of heads (Ulysses, Jacobs et al. 2023). The few
struct tokens are everywhere.
"""

from __future__ import annotations

from torch import Tensor


class Exchange:
    """All tokens and all heads are here: nothing moves. `train.sequence` has the other kind."""

    size = 1  # processes that share a sequence

    def part(self, x: Tensor, dim: int) -> Tensor:
        """The tokens of this process, out of all along `dim`."""
        return x

    def whole(self, x: Tensor, dim: int) -> Tensor:
        """All tokens along `dim`, from those of each process."""
        return x

    def to_heads(self, *given: Tensor) -> tuple[Tensor, ...]:
        """From all heads of some tokens [...,n,H,d] to some heads of all tokens [...,N,h,d]; all of one shape."""
        return given

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back: from [...,N,h,d] to [...,n,H,d]."""
        return x

    def part_of_heads(self, x: Tensor) -> Tensor:
        """The heads of this process, out of [...,H,d] that is the same everywhere."""
        return x

    def whole_heads(self, x: Tensor) -> Tensor:
        """All heads [...,H,d], from those of each process."""
        return x


HERE = Exchange()
