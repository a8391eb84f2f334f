"""Windows of training data: slices of stored features on the dense slot grid of `timeline`, standardised and masked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dualforce_model.data.dataset import Clip, Scale
from dualforce_model.data.order import BatchOrder, Place
from dualforce_model.errors import BadInput
from dualforce_model.timeline import SPATIAL, STRIDE, Window, audio_count, audio_heard

Sample = dict[str, Any]
CHANNELS = 16  # of a latent, whatever made it
SHORTEST = 16  # text tokens that a batch with a text is padded to at least


def finite(array: np.ndarray) -> bool:
    """Whether all numbers are numbers. Half precision by its exponent bits, three times as fast as by arithmetic."""
    if array.dtype == np.float16:
        return not ((array.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(array).all())


@dataclass(frozen=True)
class Stored:
    """An open feature file, read slice by slice."""

    path: Path
    file: Any

    def slice(self, name: str, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
        """That part of an array and no other byte of it, which must have `shape`."""
        array = self.file.get_slice(name)[index]
        if array.shape != shape:
            raise BadInput(
                "corrupt_feature", f"{self.path}: {name!r} slice has shape {array.shape}, metadata promises {shape}"
            )
        if array.dtype.kind == "f" and not finite(array):
            raise BadInput(
                "corrupt_feature", f"{self.path}: {name!r} holds values that are not finite; run the stage again"
            )
        return array

    def count(self, name: str) -> int:
        """Length of the first axis of an array."""
        return int(self.file.get_slice(name).get_shape()[0])

    def check(self, made_by: Mapping[str, Any]) -> None:
        """Raises BadInput mixed_provenance when the file was not made as the dataset says."""
        here = json.loads(self.file.metadata()["dualforce"])
        wrong = [key for key, value in made_by.items() if here.get(key) != value]
        if wrong:
            raise BadInput(
                "mixed_provenance",
                f"{self.path} was made with {wrong[0]} {here.get(wrong[0])!r}, its dataset with {made_by[wrong[0]]!r}; "
                "run the metadata stage again",
            )


@contextmanager
def stored(path: Path) -> Iterator[Stored]:
    """An artifact to read from. Whatever goes wrong in the block with it is BadInput corrupt_feature."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield Stored(path, file)
    except (OSError, SafetensorError, ValueError, IndexError, KeyError, TypeError) as error:
        raise BadInput("corrupt_feature", f"{path} cannot be read: {error}; run the feature's stage again") from error


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
        text [S,W] float16: of a dataset with captions; that of the whole clip, S = 0 for a clip without
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
        video = np.zeros((CHANNELS, self.frames, cells, cells), np.float32)
        with self._open(clip, "video_latents") as file:
            shape = (CHANNELS, length, cells, cells)
            video[:, :length] = file.slice("latents", (everything, window.latents), shape)
        with self._open(clip, "struct_latents") as file:
            struct = self._scaled(file, "struct", raw)
            struct_known = file.slice("valid", (raw,), (count,))
        with self._open(clip, "flame") as file:
            flame = self._scaled(file, "flame", raw)
            flame_known = file.slice("valid", (raw,), flame.shape)
        with self._open(clip, "audio_features") as file:
            audio, audio_valid = self._audio(file, clip, window)
        with self._open(clip, "reference") as file:
            one = int(choice * file.count("latents"))
            still = file.slice("latents", (slice(one, one + 1),), (1, CHANNELS, cells, cells))
        text = {"text": torch.from_numpy(self._text(clip))} if "text" in self.card["features"] else {}
        self._seen.add(clip.clip_id)

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
            **text,
            "start": start,
            "clip_id": clip.clip_id,
        }

    @contextmanager
    def _open(self, clip: Clip, feature: str) -> Iterator[Stored]:
        """A clip's feature; when the clip is read for the first time, how it was made is compared with the card."""
        with stored(clip.files[feature]) as file:
            if clip.clip_id not in self._seen:
                file.check(self.card["features"][feature])
            yield file

    @cached_property
    def _seen(self) -> set[str]:
        return set()

    @cached_property
    def _scales(self) -> dict[str, Scale]:
        return {name: Scale.of(self.card, name) for name in ("struct", "flame", "audio")}

    def _scaled(self, file: Stored, name: str, rows: slice) -> np.ndarray:
        scale = self._scales[name]
        return scale.apply(file.slice(name, (rows,), (rows.stop - rows.start, len(scale.mean))))

    def _audio(self, file: Stored, clip: Clip, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The window's features with context on both sides; what lies outside of the clip is masked."""
        heard = audio_heard(window.start, self.frames, self.audio_left, self.audio_lookahead)
        held = slice(max(0, heard.start), min(heard.stop, audio_count(clip.frames)))
        return on_slots(self._scaled(file, "audio", held), held.start - heard.start, len(heard))

    def _text(self, clip: Clip) -> np.ndarray:
        width = self.card["text_dim"]
        if "text" not in clip.files:
            return np.zeros((0, width), np.float16)
        with self._open(clip, "text") as file:
            return file.slice("text", (slice(None),), (file.count("text"), width))


class Windows(torch.utils.data.Dataset[Sample]):
    """The samples at the places of a `BatchOrder`; `readers`: one per bucket.

    A window whose files can't be read is named in the sample's `skipped` (clip id and message) and replaced by the next
    one in the order of the same bucket and epoch, so that the batch stays whole and the same files give the same batches
    again. Which stored reference a window gets is drawn from (seed, position).
    """

    def __init__(self, clips: Sequence[Clip], order: BatchOrder, readers: Sequence[WindowReader]):
        self.clips, self.order, self.readers = clips, order, readers

    def __getitem__(self, place: Place) -> Sample:
        bucket, position = place
        order, members, reader = self.order.orders[bucket], self.order.clips[bucket], self.readers[bucket]
        assert order is not None
        skipped: list[tuple[str, str]] = []
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([order.seed, position, 1])))
        choice = float(draw.random())
        for tries in range(order.epoch_length):
            index, start = order.window(order.next_in_epoch(position, tries))
            clip = self.clips[members[index]]
            try:
                return {**reader.read(clip, start, choice), "skipped": skipped}
            except BadInput as error:
                skipped.append((clip.clip_id, str(error)))
        raise BadInput("no_clips", f"none of the {len(members)} clips can be read; the first: {skipped[0][1]}")


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack a batch: tensors along a new first axis, `start` as int64 [B], ids and skips as lists.

    Texts, where the dataset has any, become `text` [B,S,W] with `text_mask` [B,S], which for a clip without one holds
    nothing: to the model that is its null token.
    """
    stacked = [name for name, value in samples[0].items() if torch.is_tensor(value) and name != "text"]
    batch: Sample = {name: torch.stack([s[name] for s in samples]) for name in stacked}
    if "text" in samples[0]:
        batch["text"], batch["text_mask"] = padded([s["text"] for s in samples])
    batch["start"] = torch.tensor([s["start"] for s in samples])
    batch["clip_id"] = [s["clip_id"] for s in samples]
    batch["skipped"] = [skip for s in samples for skip in s["skipped"]]
    return batch


def padded(texts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(texts [B,S,W] with zeros behind each, mask [B,S] of their tokens).

    S is a power of two from `SHORTEST` on that holds the longest, so that a compiled model meets few shapes; 1 where no
    clip has a text, as if there were none.
    """
    longest = max(len(text) for text in texts)
    S = max(SHORTEST, 1 << (longest - 1).bit_length()) if longest else 1
    whole, mask = texts[0].new_zeros(len(texts), S, texts[0].shape[1]), torch.zeros(len(texts), S, dtype=torch.bool)
    for n, text in enumerate(texts):
        whole[n, : len(text)], mask[n, : len(text)] = text, True
    return whole, mask
