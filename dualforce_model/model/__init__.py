"""The model: two causal towers, their bridge, their conditions and their cache. It knows tensors, not files of clips.

Read in this order: `configs.shape`, `rotary`, `attention`, `block`, `bridge`, `conditioning`, `towers`, `duo`, `cache`,
`dualforce`, `hearing`; then what makes it fast (`triangle`, `merge`, `heads`, `checkpointing`, `float8`), what lets
processes share a window (`exchange`), and what brings weights in and out (`fresh`, `files`, `wan`).
"""

from dualforce_model.configs.shape import BridgeConfig, ModelConfig, TowerConfig, preset, presets
from dualforce_model.model.cache import Cache
from dualforce_model.model.conditioning import Conditions
from dualforce_model.model.dualforce import DualForce
from dualforce_model.model.duo import Velocity, without
from dualforce_model.model.files import WeightsError, from_pretrained, save_pretrained
from dualforce_model.model.hearing import audio_window

__all__ = [
    "BridgeConfig",
    "Cache",
    "Conditions",
    "DualForce",
    "ModelConfig",
    "TowerConfig",
    "Velocity",
    "WeightsError",
    "audio_window",
    "from_pretrained",
    "preset",
    "presets",
    "save_pretrained",
    "without",
]
