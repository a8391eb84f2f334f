"""The generator: samples of sound in as they come, pictures out as they are ready. Offline is this, run to the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.motion import Motion
from dualforce_model.generate.painter import Painted
from dualforce_model.generate.rollout import Given, moved
from dualforce_model.generate.voice import Voice
from dualforce_model.timeline import AUDIO_RATE, FPS, STRIDE, audio_heard, raw_range

if TYPE_CHECKING:
    from dualforce_model.generate.talker import Talker


class Shown(NamedTuple):
    """One picture: whose, what it shows uint8 [size,size,3] RGB, and the struct latents [72] that it was drawn with."""

    speaker: int
    picture: np.ndarray
    struct: np.ndarray | None


class _Drawn(NamedTuple):
    """A latent on its way to its pictures; `frames` of them are wanted."""

    speaker: int
    painted: Future[Painted]
    frames: range  # raw


class Chorus:
    """Several pictures that talk at once, each with its own sound: one pass draws a latent of each.

        chorus = Chorus(talker, pictures, config)
        for shown in chorus.push([samples, samples]): ...
        for shown in chorus.finish(): ...

    They go in step, so the slowest sound decides. Whose sound ends early falls silent while the others go on. Each
    speaker's pictures are those that it would have alone, up to rounding (a batch of another size rounds otherwise).
    """

    def __init__(
        self,
        talker: Talker,
        pictures: Sequence[np.ndarray],
        config: GenerateConfig | None = None,
        seeds: Sequence[int] | None = None,
        text: np.ndarray | None = None,
        motions: Sequence[Motion | None] | None = None,
    ):
        """Pictures uint8 [size,size,3]; seeds default to the config's for each; text [S_t,4096] is common to all."""
        self.talker, self.config = talker, config or GenerateConfig()
        count = len(pictures)
        self._seeds = tuple(seeds) if seeds is not None else (self.config.seed,) * count
        self._motions = [None if m is None else talker.slots(m) for m in motions or [None] * count]
        if not count or len(self._seeds) != count or len(self._motions) != count:
            raise ValueError(f"one seed and motion for each of {count} pictures, and at least one picture")
        self.voices = [Voice(talker.ear(), talker.model.config, talker.standardised) for _ in pictures]
        self.frames = [0] * count  # given out so far
        self._rollout = talker.lend(self.config, torch.cat([talker.look(p) for p in pictures]), self._seeds, text)
        self._painters = [talker.painter() for _ in pictures]
        self._drawn: deque[_Drawn] = deque()
        self._shown: deque[Shown] = deque()
        self._closed = False

    @property
    def latency_s(self) -> float:
        """Sound that must be in beyond the last frame of a chunk before that chunk is drawn."""
        return latency_s(self.talker)

    def push(self, sounds: Sequence[np.ndarray]) -> Iterator[Shown]:
        """Take samples float32 [n] of each speaker; yield what is ready now. Raises BadInput bad_audio."""
        self._must_be_open()
        for voice, samples in zip(self.voices, sounds, strict=True):
            if len(samples) or not voice.finished:
                voice.push(samples)
        return self._all()

    def end(self, speaker: int) -> None:
        """Let this speaker say no more. Raises BadInput empty_audio."""
        self.voices[speaker].finish()

    def finish(self) -> Iterator[Shown]:
        """No more sound of anyone: yield the rest. Raises BadInput empty_audio."""
        self._must_be_open()
        for voice in self.voices:
            voice.finish()
        return self._all()

    def close(self) -> None:
        """Give the cache back; more often than once does no harm. Who forgets it leaves that to the garbage collector."""
        if not self._closed:
            self._closed = True
            for painter in self._painters:
                painter.close()
            self.talker.take_back(self._rollout)
            del self._rollout

    def __enter__(self) -> Chorus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _must_be_open(self) -> None:
        if self._closed:
            raise ValueError("the stream was closed; start another")

    def _all(self) -> Iterator[Shown]:
        """What is ready. Kept here until it is taken, so that a half-used iterator loses nothing."""
        while True:
            while self._shown:
                shown = self._shown.popleft()
                self.frames[shown.speaker] += 1
                yield shown
            if self._closed:
                return
            before = len(self._drawn)
            first = before and not any(self.frames)  # which waits for nothing else
            if not first and self._due():  # the next latents are under way while the last ones become pictures
                self._draw()
            elif not before:
                return
            for _ in range(before):
                self._show(self._drawn.popleft())

    def _due(self) -> bool:
        latent, chunk = self._rollout.latent, self.config.chunk
        wanted = any(not voice.finished or latent < voice.latents for voice in self.voices)
        return wanted and all(voice.covers(latent, chunk) for voice in self.voices)

    def _draw(self) -> None:
        first, device = self._rollout.latent, self.talker.device
        heard = [voice.window(first, self.config.chunk) for voice in self.voices]
        audio, valid = (moved(torch.from_numpy(np.stack(parts)), device) for parts in zip(*heard, strict=True))
        rollout = self._rollout
        rollout.begin(audio, valid)
        video, struct = rollout.denoise(self._given(first))
        for speaker, voice in enumerate(self.voices):
            for c in range(self.config.chunk):
                frames = raw_range(first + c)
                if voice.finished:
                    frames = range(frames.start, min(frames.stop, voice.length))
                if frames:
                    moves = None if struct is None else struct[speaker, c]
                    painted = self._painters[speaker].start(video[speaker, :, c], first + c, moves)
                    self._drawn.append(_Drawn(speaker, painted, frames))
        rollout.commit(video, struct)  # last, so that nobody waits for it

    def _given(self, first: int) -> Given | None:
        """The struct latents that drive the chunk, if there are any."""
        if all(motion is None for motion in self._motions):
            return None
        C, dim = self.config.chunk, self.talker.model.config.struct_dim
        struct = np.zeros((len(self._motions), C, STRIDE, dim), np.float32)
        known = np.zeros((len(self._motions), C), bool)
        for speaker, motion in enumerate(self._motions):
            if motion is not None:
                slots, there = (part[first : first + C] for part in motion)
                struct[speaker, : len(slots)], known[speaker, : len(there)] = slots, there
        device = self.talker.device
        return Given(moved(torch.from_numpy(struct), device), moved(torch.from_numpy(known), device))

    def _show(self, drawn: _Drawn) -> None:
        pictures, struct = drawn.painted.result()
        moves = None if struct is None else self.talker.motion_of(struct[STRIDE - len(pictures) :])  # slots that exist
        for n in range(len(drawn.frames)):
            self._shown.append(Shown(drawn.speaker, pictures[n], None if moves is None else moves[n]))


class Stream:
    """One picture that talks.

        stream = Stream(talker, picture, config)
        for chunk in microphone:                  # float32 [n] at 16 kHz, any n
            for frame in stream.push(chunk): ...  # uint8 [size,size,3] RGB, 25 per second
        for frame in stream.finish(): ...         # the rest

    A latent's frames come out once the sound up to `latency_s` after them is in. Memory does not grow with length.
    The pictures depend on the samples, not on the pieces in which they came.
    """

    def __init__(
        self,
        talker: Talker,
        picture: np.ndarray,
        config: GenerateConfig | None = None,
        text: np.ndarray | None = None,
        motion: Motion | None = None,
    ):
        """Picture uint8 [size,size,3]; text [S,4096]; `motion` drives as long as it lasts. Raises BadInput."""
        self.talker, self.config = talker, config or GenerateConfig()
        self._chorus = Chorus(talker, [picture], self.config, text=text, motions=[motion])
        self.struct: np.ndarray | None = None  # struct latents [72] of the frame that was given out last

    @property
    def frames(self) -> int:
        """Frames given out so far."""
        return self._chorus.frames[0]

    @property
    def samples(self) -> int:
        """Samples taken in so far."""
        return self._chorus.voices[0].samples

    @property
    def length(self) -> int:
        """Raw frames that the sound taken in so far fills, the last one perhaps in part."""
        return self._chorus.voices[0].length

    @property
    def latency_s(self) -> float:
        """Sound that must be in beyond the last frame of a latent (of a chunk) before it is drawn."""
        return self._chorus.latency_s

    def push(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Take samples float32 [n]; yield the frames that are ready now. Raises BadInput bad_audio."""
        if self._chorus.voices[0].finished:
            raise ValueError("the stream was finished; start another")
        return self._pictures(self._chorus.push([samples]))

    def finish(self) -> Iterator[np.ndarray]:
        """No more sound: yield the rest. The last frame is filled up with silence. Raises BadInput empty_audio."""
        return self._pictures(self._chorus.finish())

    def close(self) -> None:
        """Give the cache back; more often than once does no harm."""
        self._chorus.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pictures(self, shown: Iterator[Shown]) -> Iterator[np.ndarray]:
        for one in shown:
            self.struct = one.struct
            yield one.picture


def latency_s(talker: Talker) -> float:
    """Seconds of sound beyond the end of a latent that must be in before it is drawn: look-ahead and the ear's delay."""
    heard = audio_heard(1, 1, 0, talker.model.config.audio_lookahead)
    return heard.stop / AUDIO_RATE - raw_range(1).stop / FPS + talker.ear_delay_s
