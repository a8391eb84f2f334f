"""How many parameters the model has, by part."""

from __future__ import annotations

from torch import nn

from dualforce_model.model.duo import Duo


def parameters_by_part(model: Duo) -> dict[str, int]:
    """Counts that sum to the whole: towers (without what is listed apart), bridge, audio, noise level, FLAME readout.

    A tower holds its blocks with their text attention, the text projection, patches and head.
    """
    counts = {"video tower": 0, "struct tower": 0, "bridge": _count(model.bridges), "audio": 0, "noise level": 0}
    counts["flame readout"] = 0
    for name, tower in (("video tower", model.video), ("struct tower", model.struct)):
        if tower is None:
            continue
        audio = 0 if tower.audio is None else _count(tower.audio)
        for block in tower.layers():
            if block.hears_audio:
                audio += _count(block.audio) + _count(block.norm_audio)
        flame = 0
        if model.struct is not None and tower is model.struct and model.struct.flame is not None:
            flame = _count(model.struct.flame)
        counts["audio"] += audio
        counts["noise level"] += _count(tower.noise)
        counts["flame readout"] += flame
        counts[name] = _count(tower) - audio - _count(tower.noise) - flame
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
