"""What a checkpoint folder says of itself, and what may be asked of it: all that is known before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dualforce_model import config as strict
from dualforce_model.config import ConfigError
from dualforce_model.configs.forcing import DropRates
from dualforce_model.errors import BadInput
from dualforce_model.features import FEATURES
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.model.files import WeightsError, read_config
from dualforce_model.train.checkpoint import read_json, resolve
from dualforce_model.train.config import TrainConfig

if TYPE_CHECKING:
    from dualforce_model.faces import FaceCropConfig

NEEDED = ("video_latents", "audio_features")  # features that generation makes or undoes itself


@dataclass(frozen=True)
class Origin:
    """What a checkpoint folder says of itself, checked; no weight is read and no GPU touched yet."""

    folder: Path
    card: Mapping[str, Any]  # of the dataset
    train: TrainConfig
    model: ModelConfig

    @classmethod
    def read(cls, checkpoint: Path) -> Origin:
        """From a checkpoint folder, or a folder that holds checkpoints (then the newest whole one).

        Raises BadInput: no_checkpoint, damaged_checkpoint, other_format, foreign_checkpoint (parts that don't belong
        together, or features made by another version of their extractor than the one at hand).
        """
        folder = resolve(checkpoint)
        state, card = read_json(folder, "state.json"), read_json(folder, "dataset.json")["card"]
        if state["dataset"] != card["identity"]:
            raise BadInput(
                "foreign_checkpoint",
                f"{folder}: trained on dataset {state['dataset']}, but the statistics are of {card['identity']}",
            )
        for name in NEEDED:
            made_by, here = card["features"][name], FEATURES[name]
            section: Any = strict.build(here.config, made_by["config"])
            for what, mine in (("version", here.version_of(section)), ("weights", here.weights_of(section))):
                if made_by.get(what) != mine:
                    raise BadInput(
                        "foreign_checkpoint",
                        f"{folder}: trained on {name} of {what} {made_by.get(what)!r}, here is {mine!r}",
                    )
        try:
            framing_of(card)
            model, train = read_config(folder / "ema"), strict.build(TrainConfig, state["config"])
            _check_headers(folder / "ema", model)
        except (WeightsError, ConfigError) as error:
            raise BadInput("foreign_checkpoint", f"{folder}: {error}") from error
        for name, ours, theirs in (
            ("audio features", model.audio_dim, len(card["stats"]["audio"]["mean"])),
            ("struct numbers", model.struct_dim, len(card["stats"]["struct"]["mean"])),
        ):
            if ours != theirs:
                raise BadInput(
                    "foreign_checkpoint", f"{folder}: the model reads {ours} {name}, the statistics have {theirs}"
                )
        return cls(folder, card, train, model)

    @property
    def size(self) -> int:
        """Width and height of the pictures, pixels."""
        return int(self.card["size"])

    def check(self, config: GenerateConfig, text: bool = False, motion: bool = False) -> None:
        """Whether this checkpoint can be asked for that, with a text and a motion or without; neither is read for it.

        Raises BadInput wrong_window, never_dropped, no_text, no_struct, untrained_text.
        """
        window_of(config, self.model, self.train.frames)
        check_guidance(config, self.train.drops, text)
        if text and "text" not in self.card["features"]:
            raise BadInput("untrained_text", f"{self.folder} was trained without text; leave the text out")
        if motion:
            check_struct(self.model)


def framing_of(card: Mapping[str, Any]) -> FaceCropConfig:
    """How the run of a dataset found and cropped faces; cards that don't say so are of runs with the defaults."""
    from dualforce_model.faces import FaceCropConfig

    return strict.build(FaceCropConfig, {**card.get("face_crop", {}), "size": int(card["size"])}, "face_crop")


def window_of(config: GenerateConfig, model: ModelConfig, frames: int) -> int:
    """Latents that a latent sees: as wished, or as many as in a training window (`frames`) of this model.

    Raises BadInput wrong_window when the model was not made to look that far back.
    """
    if config.window is None:
        return frames if model.window is None else min(frames, model.window)
    if model.window is not None and config.window > model.window:
        raise BadInput(
            "wrong_window",
            f"window: the model was made for windows of at most {model.window} latents, got {config.window}",
        )
    return config.window


def check_guidance(config: GenerateConfig, drops: DropRates | None, text: bool) -> None:
    """Raises BadInput no_text, and never_dropped for a condition that the model never went without in training.

    drops: None where nobody knows.
    """
    if not text and config.guidance_text != 1:
        raise BadInput("no_text", f"guidance_text is {config.guidance_text:g}, but no text is given")
    for name in ("audio", "reference", "text"):
        scale = getattr(config, f"guidance_{name}")
        if drops is not None and scale != 1 and not getattr(drops, name):
            raise BadInput(
                "never_dropped",
                f"guidance_{name} is {scale:g}, but this checkpoint was trained with drops.{name}=0, so it does not "
                f"know what to draw without: set guidance_{name}=1",
            )


def check_picture(picture: np.ndarray, size: int) -> None:
    """Raises BadInput wrong_picture."""
    if picture.shape != (size, size, 3) or picture.dtype != np.uint8:
        raise BadInput(
            "wrong_picture",
            f"expected a cropped face of {size}x{size} RGB bytes, got {picture.dtype} {picture.shape}",
        )


def check_text(text: np.ndarray | None, width: int) -> None:
    """Raises BadInput wrong_text."""
    if text is None:
        return
    if text.ndim != 2 or not len(text) or text.shape[1] != width:
        raise BadInput("wrong_text", f"a text is [tokens,{width}], got {list(text.shape)}")
    if not np.isfinite(text).all():
        raise BadInput("wrong_text", "the text's embedding holds numbers that are not finite; make it again")


def check_struct(model: ModelConfig) -> None:
    """Raises BadInput no_struct."""
    if model.struct is None:
        raise BadInput("no_struct", "this checkpoint has no struct stream that could be driven")


def _check_headers(folder: Path, config: ModelConfig) -> None:
    """Compare names and shapes in the files' headers with the model's. Raises WeightsError."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[int, ...]] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):  # one, several, or rows of each from several processes
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (not a mapping)
                    shape = tuple(file.get_slice(name).get_shape())
                    rows = found[name][0] if name in found else 0
                    found[name] = (rows + shape[0], *shape[1:]) if shape else shape
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"the weights in {folder} cannot be read: {error}") from error
    with torch.device("meta"):
        wanted = {name: tuple(x.shape) for name, x in DualForce(config).state_dict().items()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise WeightsError(f"{folder} lacks {len(missing)} weights, the first {missing[0]!r}")
    if strange := sorted(found.keys() - wanted.keys()):
        raise WeightsError(f"{folder} holds {strange[0]!r}, which this model has not")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise WeightsError(f"{name} is {found[name]} in {folder}, the model's {shape}")
