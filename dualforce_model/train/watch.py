"""Judges every step before it changes a weight: is the loss a number, and not far above what it was?"""

from __future__ import annotations

import math
from typing import Any

from dualforce_model.train.config import TrainConfig

KEEP = 0.98  # decay of the running mean of the loss
WARM = 100  # steps before which there is no mean worth comparing with: small batches jump about at first
LIMIT = 10  # skipped steps in a row after which skipping is no way out


class DivergedError(RuntimeError):
    """The loss or its gradient is no number any more, or far too large; the message names step and clips."""


class Watch:
    """A function of the losses and norms so far, which are the same on every process, and so is the verdict.

    `state` goes into each checkpoint, so a resumed run judges as an undisturbed one.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.mean, self.seen, self.in_a_row = 0.0, 0, 0

    def judge(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step of this loss and gradient norm (of all processes); None: apply it."""
        typical = self.mean / (1 - KEEP**self.seen) if self.seen else 0.0
        wrong = None
        if not math.isfinite(norm):
            wrong = f"its gradient is not finite (loss {loss:.4g})"
        elif not math.isfinite(loss):
            wrong = "its loss is not finite"
        elif self.seen >= WARM and loss > self.config.spike * typical:
            wrong = f"its loss {loss:.4g} is more than {self.config.spike:g} times the running mean {typical:.4g}"
        if wrong is None:
            self.mean, self.seen, self.in_a_row = KEEP * self.mean + (1 - KEEP) * loss, self.seen + 1, 0
        else:
            self.in_a_row += 1
        return wrong

    @property
    def stops(self) -> bool:
        """Whether the step that was just found wrong ends the run."""
        return self.in_a_row > 0 and (self.config.on_spike == "stop" or self.in_a_row > LIMIT)

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "seen": self.seen, "in_a_row": self.in_a_row}

    def load(self, state: dict[str, Any]) -> None:
        self.mean, self.seen, self.in_a_row = float(state["mean"]), int(state["seen"]), int(state["in_a_row"])
