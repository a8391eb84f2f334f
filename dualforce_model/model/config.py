"""What a DualForce model is made of: `dualforce_model.configs.shape`, which can be read without torch."""

from dualforce_model.configs.shape import (
    ABLATIONS,
    BridgeConfig,
    ModelConfig,
    TowerConfig,
    ablation,
    preset,
    presets,
)

__all__ = ["ABLATIONS", "BridgeConfig", "ModelConfig", "TowerConfig", "ablation", "preset", "presets"]
