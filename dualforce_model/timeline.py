"""All time arithmetic, in one place: raw frames, latent frames, struct tokens, audio features, samples, seconds.

Units
    raw frame r      25 per second; frame r shows the instant r / 25 s
    latent j         latent 0 is raw frame 0 alone; latent j >= 1 covers raw frames 4j-3 .. 4j (causal, 4x in time)
    struct token     one per raw frame; latent j owns 4 of them, latent 0 owns 1
    audio feature    50 per second; raw frame r owns features 2r and 2r+1, so latent j owns 8 and latent 0 owns 2
    sample           16 000 per second, 640 per raw frame
    latent time      the unit of the rotary positions: one latent frame (160 ms); raw frame r stands at r / 4

Slots: put three empty raw frames in front of the clip and every latent owns exactly four *slots*: raw frame r is slot
r + 3, that is sub-slot (r + 3) % 4 of latent (r + 3) // 4. The same with six empty features in front for audio. So a
window of F latents is always a dense [F, 4] grid of struct tokens and [F, 8] grid of audio features; only latent 0 of a
clip has empty slots (three and six), and those are masked, wherever in a batch they occur.
"""

from __future__ import annotations

from dataclasses import dataclass

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640
AUDIO_RATE = 50
AUDIO_PER_FRAME = AUDIO_RATE // FPS  # 2
STRIDE = 4  # raw frames per latent
AUDIO_PER_LATENT = STRIDE * AUDIO_PER_FRAME  # 8
SPATIAL = 8  # pixels per latent cell
FRONT_FRAMES = STRIDE - 1  # empty raw slots in front of a clip
FRONT_AUDIO = FRONT_FRAMES * AUDIO_PER_FRAME  # empty audio slots in front of a clip


def raw_count(latents: int) -> int:
    """Raw frames that `latents` whole latents from the start of a clip cover: 4F-3."""
    if latents < 1:
        raise ValueError(f"a clip has at least one latent, got {latents}")
    return STRIDE * latents - FRONT_FRAMES


def latent_count(raw_frames: int) -> int:
    """Whole latents in the first `raw_frames` raw frames; up to three trailing raw frames belong to none."""
    if raw_frames < 1:
        raise ValueError(f"a clip has at least one raw frame, got {raw_frames}")
    return (raw_frames + FRONT_FRAMES) // STRIDE


def latent_of_raw(raw: int) -> int:
    """The latent that covers raw frame `raw`."""
    return (raw + FRONT_FRAMES) // STRIDE


def raw_range(latent: int) -> range:
    """Raw frames of one latent."""
    return range(max(0, STRIDE * latent - FRONT_FRAMES), STRIDE * latent + 1)


def audio_range(latent: int) -> range:
    """Audio features of one latent."""
    raw = raw_range(latent)
    return range(raw.start * AUDIO_PER_FRAME, raw.stop * AUDIO_PER_FRAME)


def audio_count(raw_frames: int) -> int:
    """Audio features stored for a clip of `raw_frames` raw frames: two each."""
    return AUDIO_PER_FRAME * raw_frames


def latent_time_of_raw(raw: int) -> float:
    """Position of a raw frame (and its struct token) in latent time: latent j stands at j, its last raw frame too."""
    return raw / STRIDE


def latent_time_of_audio(feature: int) -> float:
    """Position of an audio feature in latent time; features 2r and 2r+1 start at raw frame r and half a frame later."""
    return feature / AUDIO_PER_LATENT


def seconds_of_raw(raw: int) -> float:
    return raw / FPS


def sample_of_raw(raw: int) -> int:
    """First audio sample of raw frame `raw`."""
    return raw * SAMPLES_PER_FRAME


def raw_of_seconds(seconds: float) -> int:
    """The raw frame on show at `seconds` (nearest grid instant)."""
    return round(seconds * FPS)


@dataclass(frozen=True)
class Window:
    """`length` latents from latent `start` of a clip, and the slices of each feature that belong to them.

    The slices address the stored arrays: latents [16,F,h,w], per-raw-frame arrays [T,...], audio [2T,A].
    `front_frames` / `front_audio` are the empty slots to prepend (3 and 6 when the window holds latent 0, else 0),
    after which the arrays are exactly [4*length, ...] and [8*length, ...].
    """

    start: int
    length: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 1:
            raise ValueError(
                f"a window starts at latent >= 0 and holds >= 1, got start {self.start}, length {self.length}"
            )

    @property
    def latents(self) -> slice:
        return slice(self.start, self.start + self.length)

    @property
    def raw(self) -> slice:
        return slice(raw_range(self.start).start, raw_range(self.start + self.length - 1).stop)

    @property
    def audio(self) -> slice:
        return slice(self.raw.start * AUDIO_PER_FRAME, self.raw.stop * AUDIO_PER_FRAME)

    @property
    def front_frames(self) -> int:
        return FRONT_FRAMES if self.start == 0 else 0

    @property
    def front_audio(self) -> int:
        return FRONT_AUDIO if self.start == 0 else 0


def audio_heard(start: int, length: int, left: int, lookahead: int) -> range:
    """Audio features that latents start .. start+length-1 hear: from `left` features before to `lookahead` after them.

    8·length + left + lookahead of them; those below 0 (empty slots, or before the clip) and past the end don't exist.
    """
    first = AUDIO_PER_LATENT * start - FRONT_AUDIO
    return range(first - left, first + AUDIO_PER_LATENT * length + lookahead)
