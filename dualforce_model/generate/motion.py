"""Struct latents that drive a video instead of being generated: from a video, a motion template or a feature file."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dualforce_model import config as strict
from dualforce_model.errors import BadInput
from dualforce_model.features.struct_latents import DIM
from dualforce_model.generate.origin import framing_of
from dualforce_model.timeline import FPS, FRONT_FRAMES, STRIDE, latent_count

if TYPE_CHECKING:
    from dualforce_model.faces import FaceCropConfig

FEATURE = "struct_latents"
TEMPLATE = {"R": (3, 3), "exp": (21, 3), "t": (3,), "scale": (1,)}  # of LivePortrait, per frame
NO_LIMIT_S = 1e6  # of a driving video: parts would be several clips


class Motion(NamedTuple):
    """Struct latents at 25 frames a second, as extracted: struct [T,72], and which frames were measured [T]."""

    struct: np.ndarray
    valid: np.ndarray


def read_motion(path: Path, card: Mapping[str, Any]) -> Motion:
    """The motion in a file, in the terms of the struct stream that `card` (of a checkpoint's dataset) describes.

    A `.safetensors` file is a LivePortrait template (R, exp, t, scale; any rate) or a run's struct_latents file; any
    other is a video, whose one face is cropped and measured as in the workflow. Raises BadInput (no_motion,
    other_motion, foreign_checkpoint, several_clips) and what the face crop and the extractor raise.
    """
    made_by = card["features"][FEATURE]
    if not path.is_file():
        raise BadInput("no_motion", f"there is no file {path} to take the motion from")
    motion = _stored(path, made_by) if path.suffix == ".safetensors" else _measured(path, made_by, framing_of(card))
    if not np.isfinite(motion.struct).all():
        raise BadInput("no_motion", f"{path} holds numbers that are not finite")
    return motion


def _stored(path: Path, made_by: Mapping[str, Any]) -> Motion:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            facts = file.metadata() or {}
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: bfloat16
        raise BadInput("no_motion", f"cannot read motion from {path}: {error}") from error
    if TEMPLATE.keys() <= arrays.keys():
        return _template(path, arrays, facts, made_by)
    if not {"struct", "valid"} <= arrays.keys():
        raise BadInput(
            "no_motion",
            f"{path} has {', '.join(sorted(arrays)) or 'nothing'}; "
            f"a template has {', '.join(TEMPLATE)}, a struct_latents file struct and valid",
        )
    _same_backend(path, _backend(path, facts), made_by)
    struct, valid = arrays["struct"], arrays["valid"]
    if not struct.size or struct.shape[1:] != (DIM,) or valid.shape != struct.shape[:1]:
        raise BadInput(
            "no_motion",
            f"{path}: struct is [frames,{DIM}] with at least one frame and valid [frames], "
            f"got {list(struct.shape)} and {list(valid.shape)}",
        )
    return Motion(struct.astype(np.float32), valid.astype(bool))


def _backend(path: Path, facts: Mapping[str, str]) -> str:
    """Which backend made a struct_latents file, as its header says."""
    try:
        return str(json.loads(facts.get("dualforce", "{}")).get("backend", "an unknown backend"))
    except (ValueError, AttributeError) as error:
        raise BadInput(
            "no_motion", f"{path}: the entry 'dualforce' of its header is no JSON object: {error}"
        ) from error


def _template(
    path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, str], made_by: Mapping[str, Any]
) -> Motion:
    from dualforce_model.features.liveportrait import pack

    _same_backend(path, "liveportrait", made_by)
    try:
        rate = float(facts["fps"])
    except (KeyError, ValueError) as error:
        raise BadInput("no_motion", f"{path} does not say its frame rate (fps in the header)") from error
    count = len(arrays["R"]) if arrays["R"].ndim else 0
    if not 0 < rate < math.inf:
        raise BadInput("no_motion", f"{path}: fps in the header is a positive number, got {rate:g}")
    if not count or any(arrays[name].shape != (count, *shape) for name, shape in TEMPLATE.items()):
        shapes = ", ".join(f"{name} {list(arrays[name].shape)}" for name in TEMPLATE)
        raise BadInput("no_motion", f"{path}: wanted R [T,3,3], exp [T,21,3], t [T,3] and scale [T,1], got {shapes}")
    struct = pack(arrays["R"], arrays["exp"], arrays["t"], arrays["scale"])
    if not np.isfinite(struct).all():
        raise BadInput("no_motion", f"{path} holds numbers that are not finite")
    try:
        with np.errstate(invalid="ignore"):
            struct = resampled(struct, rate)
    except ValueError as error:
        raise BadInput("no_motion", f"{path}: its R are no rotations ({error})") from error
    return Motion(struct, np.ones(len(struct), bool))


def _same_backend(path: Path, backend: str, made_by: Mapping[str, Any]) -> None:
    wanted = made_by["config"]["backend"]
    if backend != wanted:
        raise BadInput(
            "other_motion",
            f"{path} holds the motion of {backend}, but this checkpoint's struct stream is that of "
            f"{wanted}, whose numbers mean something else; give a video instead",
        )


def resampled(struct: np.ndarray, rate: float) -> np.ndarray:
    """Struct latents [n,72] at `rate` frames a second, at 25: linear between frames, rotations on the sphere."""
    if rate == FPS:
        return struct
    from scipy.spatial.transform import Rotation, Slerp

    from dualforce_model.features.struct_latents import ROTATION, rotation_of

    count = max(1, int((len(struct) - 1) * FPS / rate) + 1)
    at = np.minimum(np.arange(count) * rate / FPS, len(struct) - 1)
    out = np.stack([np.interp(at, np.arange(len(struct)), column) for column in struct.T], 1)
    if len(struct) > 1:
        turns = Slerp(np.arange(len(struct)), Rotation.from_matrix(rotation_of(struct)))(at).as_matrix()
        out[:, ROTATION] = turns[:, :, :2].transpose(0, 2, 1).reshape(count, 6)
    return out.astype(np.float32)


def _measured(path: Path, made_by: Mapping[str, Any], framing: FaceCropConfig) -> Motion:
    """The motion of the one face in a video, by the extractor that training's was made by, from the video's beginning.

    Before the face comes, nothing is known.
    """
    from dualforce_model.faces import crop_source
    from dualforce_model.features import FEATURES
    from dualforce_model.media import Clip

    extractor = FEATURES[FEATURE]
    settings: Any = strict.build(extractor.config, made_by["config"])
    mine = extractor.version_of(settings)
    if made_by["version"] != mine:
        raise BadInput(
            "foreign_checkpoint",
            f"trained on {FEATURE} of version {made_by['version']!r}, here is {mine!r}: a video cannot drive it",
        )
    framing = replace(framing, max_clip_s=NO_LIMIT_S)
    with tempfile.TemporaryDirectory(prefix="dualforce-motion-") as folder:
        found = crop_source(path, "motion", "motion", Path(folder), framing, sound=False)
        if len(found) != 1:
            raise BadInput(
                "several_clips", f"{path} has {len(found)} faces or shots; a driving video shows one face in one shot"
            )
        (made,) = found
        arrays = extractor.extract(Clip(Path(folder), made["clip_id"]), settings)
    first = round((made["start_s"] - made["source"]["video_start_s"]) * FPS)
    return Motion(np.pad(arrays["struct"], ((first, 0), (0, 0))), np.pad(arrays["valid"].astype(bool), (first, 0)))


def slots_of(motion: Motion) -> tuple[np.ndarray, np.ndarray]:
    """In latents: struct [F,4,72] with latent 0's three empty slots at zero, and which latents are wholly known [F].

    A latent with a frame that was not measured, or that ends after the motion does, is left to the model.
    """
    frames = len(motion.struct)
    latents = latent_count(frames)
    used = STRIDE * latents - FRONT_FRAMES
    struct = np.zeros((STRIDE * latents, motion.struct.shape[1]), np.float32)
    known = np.ones(STRIDE * latents, bool)
    struct[FRONT_FRAMES:], known[FRONT_FRAMES:] = motion.struct[:used], motion.valid[:used]
    return struct.reshape(latents, STRIDE, -1), known.reshape(latents, STRIDE).all(1)
