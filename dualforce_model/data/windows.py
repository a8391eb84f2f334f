"""Windows of training data: slices of stored features on the dense slot grid of `timeline`, standardised and masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dualforce_model.data.dataset import Clip, Scale
from dualforce_model.data.order import WindowOrder
from dualforce_model.errors import BadInput
from dualforce_model.timeline import SPATIAL, STRIDE, Window, audio_count, audio_heard

Sample = dict[str, Any]
CHANNELS = 16  # of a latent, whatever made it


def read_slice(path: Path, name: str, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    """That part of a stored array and no other byte of it, which must have `shape`. BadInput if it can't be had."""
    try:
        with safe_open(path, framework="numpy") as file:
            array = file.get_slice(name)[index]
    except (OSError, SafetensorError, ValueError, IndexError) as error:
        raise BadInput(
            "corrupt_feature", f"{path}: cannot read {name!r}: {error}; run the feature's stage again"
        ) from error
    if array.shape != shape:
        raise BadInput("corrupt_feature", f"{path}: {name!r} slice has shape {array.shape}, metadata promises {shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadInput("corrupt_feature", f"{path}: {name!r} holds values that are not finite; run the stage again")
    return array


def stored_count(path: Path, name: str) -> int:
    """Length of the first axis of a stored array. Raises BadInput."""
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.get_slice(name).get_shape()[0])
    except (OSError, SafetensorError, ValueError, IndexError) as error:
        raise BadInput(
            "corrupt_feature", f"{path}: cannot read {name!r}: {error}; run the feature's stage again"
        ) from error


def on_slots(array: np.ndarray, front: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """(array with `front` empty slots before it and zeros up to `slots`, mask of the slots that hold something)."""
    whole = np.zeros((slots, *array.shape[1:]), array.dtype)
    whole[front : front + len(array)] = array
    held = np.zeros(slots, bool)
    held[front : front + len(array)] = True
    return whole, held


@dataclass(frozen=True)
class WindowReader:
    """Reads one window of one clip.

    A sample (F latents; a clip that is shorter fills the rest with masked zeros)
        video [16,F,h,w] · frame_valid [F]
        struct [F,4,72], struct_valid [F,4] · flame [F,4,159], flame_valid [F,4,159]
        audio [left+8F+lookahead, A], audio_valid [same]: the features of the window's latents and the declared context
        reference [16,h,w] · start: the window's first latent in its clip · clip_id
    """

    card: Mapping[str, Any]  # of the dataset
    frames: int  # F
    audio_left: int  # features before the first latent's own
    audio_lookahead: int  # features after the last latent's own

    def read(self, clip: Clip, start: int, choice: float) -> Sample:
        """Window of latents [start, start + F); `choice` in [0,1) picks the stored reference. BadInput if corrupt."""
        window = Window(start, min(self.frames, clip.latents - start))
        cells, length, slots = self.card["size"] // SPATIAL, window.length, STRIDE * self.frames
        raw, everything = window.raw, slice(None)
        count = raw.stop - raw.start
        latents = read_slice(
            clip.files["video_latents"], "latents", (everything, window.latents), (CHANNELS, length, cells, cells)
        )
        video = np.zeros((CHANNELS, self.frames, cells, cells), np.float32)
        video[:, :length] = latents
        struct = self._rows(clip, "struct_latents", "struct", raw, Scale.of(self.card, "struct"))
        flame = self._rows(clip, "flame", "flame", raw, Scale.of(self.card, "flame"))
        struct_known = read_slice(clip.files["struct_latents"], "valid", (raw,), (count,))
        flame_known = read_slice(clip.files["flame"], "valid", (raw,), flame.shape)
        audio, audio_valid = self._audio(clip, window)
        one = int(choice * stored_count(clip.files["reference"], "latents"))
        still = read_slice(clip.files["reference"], "latents", (slice(one, one + 1),), (1, CHANNELS, cells, cells))

        def grid(array: np.ndarray) -> torch.Tensor:
            whole, _ = on_slots(array, window.front_frames, slots)
            return torch.from_numpy(whole.reshape(self.frames, STRIDE, *array.shape[1:]))

        return {
            "video": torch.from_numpy(video),
            "frame_valid": torch.arange(self.frames) < length,
            "struct": grid(struct),
            "struct_valid": grid(struct_known),
            "flame": grid(np.where(flame_known, flame, np.float32(0))),
            "flame_valid": grid(flame_known),
            "audio": torch.from_numpy(audio),
            "audio_valid": torch.from_numpy(audio_valid),
            "reference": torch.from_numpy(still[0].astype(np.float32)),
            "start": start,
            "clip_id": clip.clip_id,
        }

    def _rows(self, clip: Clip, feature: str, name: str, rows: slice, scale: Scale) -> np.ndarray:
        shape = (rows.stop - rows.start, len(scale.mean))
        return scale.apply(read_slice(clip.files[feature], name, (rows,), shape))

    def _audio(self, clip: Clip, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The window's features with context on both sides; what lies outside of the clip is masked."""
        heard = audio_heard(window.start, self.frames, self.audio_left, self.audio_lookahead)
        held = slice(max(0, heard.start), min(heard.stop, audio_count(clip.frames)))
        audio = self._rows(clip, "audio_features", "audio", held, Scale.of(self.card, "audio"))
        return on_slots(audio, held.start - heard.start, len(heard))


class Windows(torch.utils.data.Dataset[Sample]):
    """The samples at positions of a `WindowOrder`.

    A window whose files can't be read is named in the sample's `skipped` (clip id and message) and replaced by the next
    one in the order of the same epoch, so that the batch stays whole and the same files give the same batches again.
    Which stored reference a window gets is drawn from (seed, position).
    """

    def __init__(self, clips: Sequence[Clip], order: WindowOrder, reader: WindowReader):
        self.clips, self.order, self.reader = clips, order, reader

    def __getitem__(self, position: int) -> Sample:
        skipped: list[tuple[str, str]] = []
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.order.seed, position, 1])))
        choice = float(draw.random())
        for tries in range(self.order.epoch_length):
            index, start = self.order.window(self.order.next_in_epoch(position, tries))
            clip = self.clips[index]
            try:
                return {**self.reader.read(clip, start, choice), "skipped": skipped}
            except BadInput as error:
                skipped.append((clip.clip_id, str(error)))
        raise BadInput("no_clips", f"none of the {len(self.clips)} clips can be read; the first: {skipped[0][1]}")


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack a batch: tensors along a new first axis, `start` as int64 [B], ids and skips as lists."""
    batch: Sample = {k: torch.stack([s[k] for s in samples]) for k, v in samples[0].items() if torch.is_tensor(v)}
    batch["start"] = torch.tensor([s["start"] for s in samples])
    batch["clip_id"] = [s["clip_id"] for s in samples]
    batch["skipped"] = [skip for s in samples for skip in s["skipped"]]
    return batch
