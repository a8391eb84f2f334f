"""What a DualForce model is made of: sizes, bridge, conditioning windows. Presets are YAML files beside the library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dualforce_model import config as strict
from dualforce_model.config import ConfigError, near_misses
from dualforce_model.timeline import AUDIO_PER_LATENT, AUDIO_RATE, STRIDE

PRESETS = Path(__file__).parent / "model"
AUDIO_MS = 1000 // AUDIO_RATE  # 20 ms per audio feature


@dataclass(frozen=True)
class TowerConfig:
    """One transformer: `layers` blocks of `width` channels, `heads` heads, a feed-forward of `ffn` channels."""

    width: int
    layers: int
    heads: int
    ffn: int
    audio_layers: int  # the first so many blocks hear the audio

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} does not divide into {self.heads} heads")
        if self.head_dim % 2 or self.head_dim < 8:
            raise ConfigError(f"rotary positions need an even head dim >= 8, got {self.head_dim}")
        if not 0 <= self.audio_layers <= self.layers:
            raise ConfigError(f"audio_layers {self.audio_layers} is not within 0..{self.layers}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class BridgeConfig:
    """Which layers of the video tower exchange with the struct tower, and in which direction.

    shallow_focus: the first third of the layers (or the first `depth`); full: all of them; distributed: every third;
    progressive: ever wider gaps (0, 1, 3, 6, 10, ...); custom: exactly `layers`; none: two independent towers.
    """

    strategy: Literal["shallow_focus", "full", "distributed", "progressive", "custom", "none"] = "shallow_focus"
    depth: int | None = None
    layers: tuple[int, ...] = ()
    direction: Literal["both", "struct_to_video", "video_to_struct"] = "both"

    def __post_init__(self) -> None:
        if self.depth is not None and self.strategy != "shallow_focus":
            raise ConfigError(f"bridge depth belongs to shallow_focus, not to {self.strategy}")
        if bool(self.layers) != (self.strategy == "custom"):
            raise ConfigError("bridge layers are listed with strategy custom, and only then")

    def chosen(self, total: int) -> tuple[int, ...]:
        """Indices of the video layers before which the towers exchange, out of `total`."""
        depth = self.depth if self.depth is not None else max(1, total // 3)
        layers = {
            "shallow_focus": tuple(range(depth)),
            "full": tuple(range(total)),
            "distributed": tuple(range(0, total, 3)),
            "progressive": tuple(n * (n + 1) // 2 for n in range(total) if n * (n + 1) // 2 < total),
            "custom": tuple(sorted(set(self.layers))),
            "none": (),
        }[self.strategy]
        if any(not 0 <= layer < total for layer in layers):
            raise ConfigError(f"bridge layers {layers} do not fit into {total} layers")
        return layers


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes the weights, and the attention windows that generation must share with training."""

    video: TowerConfig
    struct: TowerConfig | None  # None: the video tower alone
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    latent_channels: int = 16
    mask_channels: int = 4
    patch: int = 2
    struct_dim: int = 72
    struct_tokens: Literal[1, 4] = 4  # per latent; 1 packs the four raw frames of a latent into one token
    flame_dim: int = 56  # FLAME parameters that a face shows: 50 expression, 3 jaw, 3 pose; 0: no such readout
    audio_dim: int = 1024
    audio_left_ms: int = 320  # sound heard before a latent begins
    audio_lookahead_ms: int = 80  # sound heard after a latent ends; also the latency that it costs when streaming
    text_dim: int = 4096
    reference_spread: float | None = None  # spread of latents around the reference, if the head says the rest only
    window: int | None = None  # latents that a latent may see, itself included; None: all before it
    rotary_base: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("audio_left_ms", "audio_lookahead_ms"):
            if getattr(self, name) < 0 or getattr(self, name) % AUDIO_MS:
                raise ConfigError(f"{name} is a multiple of {AUDIO_MS} ms, got {getattr(self, name)}")
        if self.window is not None and self.window < 1:
            raise ConfigError(f"window holds at least the latent itself, got {self.window}")
        if self.struct is None and self.bridge.strategy != "none":
            raise ConfigError("without a struct tower the bridge strategy is none")
        self.bridge.chosen(self.video.layers)

    @property
    def audio_left(self) -> int:
        """Audio features heard before a latent begins."""
        return self.audio_left_ms // AUDIO_MS

    @property
    def audio_lookahead(self) -> int:
        """Audio features heard after a latent ends."""
        return self.audio_lookahead_ms // AUDIO_MS

    @property
    def audio_span(self) -> int:
        """Audio features that one latent hears."""
        return self.audio_left + AUDIO_PER_LATENT + self.audio_lookahead

    @property
    def video_inputs(self) -> int:
        """Channels into the video tower: noisy latent, mask, reference condition."""
        return 2 * self.latent_channels + self.mask_channels

    @property
    def struct_inputs(self) -> int:
        """Numbers per struct token."""
        return self.struct_dim * STRIDE // self.struct_tokens

    @property
    def bridge_layers(self) -> tuple[int, ...]:
        return self.bridge.chosen(self.video.layers)

    def struct_layer(self, video_layer: int) -> int:
        """The struct block that stands beside a video block; with fewer struct blocks, several share one."""
        assert self.struct is not None
        return video_layer * self.struct.layers // self.video.layers

    def to_dict(self) -> dict[str, Any]:
        return strict.to_dict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Build from nested plain data; an unknown key is a ConfigError."""
        return strict.build(cls, values)


def presets() -> list[str]:
    """Names that `preset` accepts."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset(name: str, *assignments: str, **values: Any) -> ModelConfig:
    """A named configuration, with `a.b=c` assignments or top-level keywords on top.

    >>> preset("tiny", "bridge.depth=2", audio_dim=40).audio_dim
    40
    """
    if name not in presets():
        raise ConfigError(f"unknown model preset {name!r}{near_misses(name, presets())}")
    base = yaml.safe_load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    return ModelConfig.from_dict(strict.override({**base, **values}, assignments, ModelConfig))


ABLATIONS: dict[str, dict[str, Any]] = yaml.safe_load((PRESETS.parent / "ablations.yaml").read_text(encoding="utf-8"))


def ablation(name: str, base: ModelConfig) -> tuple[ModelConfig, dict[str, Any]]:
    """The named experiment on top of `base`: its model, and the keywords that it gives to `NoiseConfig`."""
    if name not in ABLATIONS:
        raise ConfigError(f"unknown ablation {name!r}{near_misses(name, ABLATIONS)}")
    changes = ABLATIONS[name]
    values = strict.override(base.to_dict(), changes.get("model", []), ModelConfig)
    return ModelConfig.from_dict(values), dict(changes.get("noise", {}))
