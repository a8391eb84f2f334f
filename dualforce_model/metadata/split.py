"""Who is one person, and on which side of the split that person stands. No person stands on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from dualforce_model.metadata.config import MetadataConfig


def group_of(clip: Mapping[str, Any], config: MetadataConfig) -> str:
    """Identity group of a clip: its `identity_group` when one is known, else by the configured rule."""
    if clip.get("identity_group"):
        return str(clip["identity_group"])
    if config.identity_from == "folder":
        folder = PurePosixPath(clip["source"]).parent
        if folder != PurePosixPath("."):
            return f"folder:{folder}"
    return f"source:{clip['source_id']}"


def draw(group: str, seed: int) -> float:
    """A number in 0..1 that belongs to the group alone, so that a growing dataset moves nobody across the split."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64


def side_of(group: str, config: MetadataConfig) -> str:
    """Where the draw alone puts a group."""
    number = draw(group, config.seed)
    if number < config.test_share:
        return "test"
    return "val" if number < config.test_share + config.val_share else "train"


def assign(groups: Iterable[str], config: MetadataConfig) -> dict[str, str]:
    """`train`, `val` or `test` for each group. There is always one to train on, however few there are."""
    sides = {group: side_of(group, config) for group in groups}
    if sides and "train" not in sides.values():
        sides[max(sides, key=lambda group: (draw(group, config.seed), group))] = "train"
    return sides
