"""What can be set about the dataset's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dualforce_model.config import ConfigError


@dataclass(frozen=True)
class MetadataConfig:
    """How people are kept apart and how many of them are held out.

    identity_from   who is one person when a dataset's list does not say: `source`, all clips of one video; `folder`, all
                    videos of one folder (for data sorted by person; videos at the top of the tree count one by one);
                    `face`, all clips whose faces are alike by ArcFace, of one video or one listed person or not
                    (needs measure.identity=arcface; a further clip may join two people, and so move one of them)
    val_share       part of the people whose clips measure the training while it runs
    test_share      part of the people whose clips nobody sees before the end
    seed            another seed, another draw
    """

    identity_from: Literal["source", "folder", "face"] = "source"
    val_share: float = 0.05  # 0..1
    test_share: float = 0.05  # 0..1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.val_share, self.test_share) < 0 or self.val_share + self.test_share >= 1:
            raise ConfigError(
                f"val_share + test_share must lie in 0..1 and leave people to train on,"
                f" got {self.val_share} + {self.test_share}"
            )
