"""The two towers over a whole window at once: one talking head denoised by a video tower and a struct tower together.

B batch, F latent frames, H×W latent cells, N video tokens per frame, M struct tokens per frame (4 or 1), D width.
Velocity = noise - clean (rectified flow); sigma is the share of noise, one per latent frame and stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dualforce_model.configs.shape import ModelConfig
from dualforce_model.model.beside import Beside
from dualforce_model.model.block import Heard, KeyValue, Places, Source, Still
from dualforce_model.model.bridge import Bridge, Clock, Sight
from dualforce_model.model.cache import RingView
from dualforce_model.model.conditioning import Conditions
from dualforce_model.model.exchange import Exchange
from dualforce_model.model.fresh import fresh_weights
from dualforce_model.model.precondition import around_reference
from dualforce_model.model.rotary import Phase, space_phase, time_phase
from dualforce_model.model.towers import StructTower, Tower, VideoTower
from dualforce_model.timeline import AUDIO_PER_LATENT, FRONT_AUDIO, FRONT_FRAMES, STRIDE


class Velocity(NamedTuple):
    """Velocities video [B,16,F,H,W] and struct [B,F,4,72], and flame [B,F,4,P]; all fp32.

    flame is what the clean struct that the struct velocity points at says of the FLAME parameters. struct and flame are
    None without a struct tower, flame also without `flame_dim`.
    """

    video: Tensor
    struct: Tensor | None
    flame: Tensor | None = None


@dataclass
class Passage:
    """All that the blocks of both towers need for one pass, for every layer.

    A window brings the `Source` of its conditions and the reference picture; a rollout what each layer made of them
    before (`heard`), and its past.
    """

    video_modulation: Tensor  # [B,F,6,D]
    video_places: Places
    video_heard: Source | list[Heard]
    video_past: Sequence[RingView] = ()
    still: Still | None = None
    struct_modulation: Tensor | None = None
    struct_places: Places | None = None
    struct_heard: Source | list[Heard] = ()  # type: ignore[assignment]
    struct_past: Sequence[RingView] = ()
    struct_mask: Tensor | None = None  # [B,F,G,M]
    clock: Clock | None = None
    sights: dict[int, tuple[Sight, Sight]] | None = None  # per bridged layer: the video tower's, the struct tower's


class Duo(nn.Module):
    """Both towers and their bridge, as trained. `DualForce` adds the frame-by-frame half."""

    beside: Beside = Beside()  # where the struct tower runs

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.video = VideoTower(config)
        self.struct = StructTower(config) if config.struct is not None else None
        self.bridges = nn.ModuleDict()
        if config.struct is not None:
            for layer in config.bridge_layers:
                bridge = Bridge(config.video, config.struct, config.bridge.direction, config.norm_eps)
                self.bridges[str(layer)] = bridge
        self.reset()

    def spread(self, exchange: Exchange) -> None:
        """Let the processes of `exchange` share each window: every one gets the n-th part of the video tokens.

        Raises ValueError when the heads can't be shared evenly.
        """
        for name, tower in (("video", self.config.video), ("struct", self.config.struct)):
            if tower is not None and tower.heads % exchange.size:
                raise ValueError(
                    f"{tower.heads} heads of the {name} tower can't be shared by {exchange.size} processes: choose a "
                    "sequence group that divides them"
                )
        self.video.exchange = exchange
        for block in self.video.layers():
            block.attention.exchange = exchange
        for bridge in self.bridges.values():
            if cast("Bridge", bridge).to_struct is not None:
                cast("Bridge", bridge).to_struct.exchange = exchange  # type: ignore[union-attr]

    def reset(self) -> None:
        """Draw fresh weights (see `fresh_weights`)."""
        with torch.no_grad():
            for name, value in fresh_weights(self):
                self.get_parameter(name).copy_(value)

    def silent(self) -> list[nn.Linear]:
        """The layers that start at zero."""
        return [layer for tower in (self.video, self.struct) if tower is not None for layer in tower.silent()]

    def forward(
        self,
        video: Tensor,
        struct: Tensor | None,
        sigma_video: Tensor,
        sigma_struct: Tensor | None,
        conditions: Conditions,
        start: Tensor | None = None,
        struct_valid: Tensor | None = None,
    ) -> Velocity:
        """Velocities of a window of F latents whose first is latent `start` [B] of its clip (0 when None).

        video [B,16,F,H,W] and struct [B,F,4,72] noisy; sigma_video and sigma_struct [B,F]; struct_valid [B,F,4] marks
        struct slots that hold a measurement (the empty slots of latent 0 are found from `start`).
        Frames past the end of a short clip need no mask here: nothing before them sees them, and the losses skip them.
        """
        B, _, F, H, W = video.shape
        self._check(video, struct, sigma_video, sigma_struct, conditions)
        dtype, device = self.video.embed.weight.dtype, video.device
        start = torch.zeros(B, dtype=torch.long, device=device) if start is None else start
        grid = (H // self.config.patch, W // self.config.patch)

        reference = pictured(conditions)
        video_time = start[:, None] + torch.arange(F, device=device)
        level, modulation = self.video.noise(sigma_video)
        rest = self.rest(grid, device)
        seen = frames_seen(F, self.config.window, device)
        picture = None if reference is None else reference.to(dtype)
        block = self.video.reference_tokens(picture, conditions.drop_reference, B, grid[0] * grid[1])
        passage = Passage(
            modulation,
            self.here(self.places(self.video, video_time[..., None], rest)),
            self.source(self.video, conditions, start, F),
            still=Still(block, self.video.unmoved(block)),
        )
        x = self.video.tokens(video.to(dtype), picture)
        if self.struct is None:
            x, _ = self.run(x, None, passage)
            return Velocity(
                self.video_velocity(x, level, grid, video, sigma_video, reference, conditions.drop_reference), None
            )

        assert struct is not None
        assert sigma_struct is not None
        exists = self.struct_exists(start, F, struct_valid)
        struct_level, passage.struct_modulation = self.struct.noise(sigma_struct)
        slots = self.struct_times(video_time)
        passage.struct_places = self.places(self.struct, slots, None)
        passage.struct_heard = self.source(self.struct, conditions, start, F)
        token_exists = self.token_exists(exists)
        passage.struct_mask = seen[None, :, :, None] & token_exists[:, None]
        passage.clock = self.clock(video_time[..., None], slots)
        to_struct = seen[None, :, :, None].expand(1, F, F, grid[0] * grid[1])
        sights = (Sight(passage.struct_mask), Sight(to_struct))  # the sink comes with the layer
        passage.sights = dict.fromkeys(self.config.bridge_layers, sights)
        x, s = self.run(x, self.struct.tokens(struct.to(dtype), exists), passage)
        assert s is not None
        velocity = self.struct.velocity(s, struct_level)
        flame = self.struct.read_flame(struct.float() - sigma_struct[..., None, None] * velocity)
        out = self.video_velocity(x, level, grid, video, sigma_video, reference, conditions.drop_reference)
        return Velocity(out, velocity, flame)

    def video_velocity(
        self,
        x: Tensor,
        level: Tensor,
        grid: tuple[int, int],
        noisy: Tensor,
        sigma: Tensor,
        reference: Tensor | None,
        dropped: Tensor | None,
    ) -> Tensor:
        """The video velocity [B,16,F,H,W] from the last tokens; see `precondition`."""
        raw = self.video.velocity(x, level, grid)
        spread = self.config.reference_spread
        return raw if spread is None else around_reference(raw, noisy, sigma, reference, dropped, spread)

    def run(self, x: Tensor, s: Tensor | None, passage: Passage) -> tuple[Tensor, Tensor | None]:
        """Both towers, block by block: x [B,F,N,D] and s [B,F,M,D]; bridged where the configuration says."""
        reached, still, heard = 0, passage.still, passage.video_heard
        given = passage.video_modulation, passage.video_places
        self.beside.fork(s)
        for i, block in enumerate(self.video.layers()):
            if str(i) in self.bridges:
                assert s is not None
                assert passage.sights is not None
                with self.beside:
                    s, reached = self.run_struct(s, passage, reached, self.config.struct_layer(i))
                bridge, (to_video, to_struct) = cast("Bridge", self.bridges[str(i)]), passage.sights[i]
                if still is not None:
                    to_struct = to_struct._replace(sink=bridge.reference(still.x))
                self.beside.join(s)
                if isinstance(heard, Source):
                    x, s = bridge(x, s, passage.clock, to_video, to_struct)
                    self.beside.fork(s)
                else:
                    assert passage.clock is not None
                    self.beside.fork(x)
                    with self.beside:
                        told = bridge.for_struct(x, s, passage.clock, to_struct)
                    x, s = bridge.for_video(x, s, passage.clock, to_video), told
            if isinstance(heard, Source):
                x, still = block.window(x, *given, heard, still, i + 1 == len(self.video.blocks), None)
            else:
                x = block(x, *given, heard[i], past=passage.video_past[i])
        if s is not None:
            assert self.struct is not None
            with self.beside:
                s, _ = self.run_struct(s, passage, reached, len(self.struct.blocks))
            self.beside.join(s)
        return x, s

    def run_struct(self, s: Tensor, passage: Passage, first: int, last: int) -> tuple[Tensor, int]:
        """Struct blocks first .. last-1."""
        assert self.struct is not None
        assert passage.struct_modulation is not None
        assert passage.struct_places is not None
        heard, given = passage.struct_heard, (passage.struct_modulation, passage.struct_places)
        for i, block in enumerate(self.struct.layers()[first:last], first):
            if isinstance(heard, Source):
                s, _ = block.window(s, *given, heard, None, False, passage.struct_mask)
            else:
                s = block(s, *given, heard[i], mask=passage.struct_mask, past=passage.struct_past[i])
        return s, last

    # -- where tokens stand ------------------------------------------------------------------------------------------

    def rest(self, grid: tuple[int, int], device: torch.device) -> Phase:
        """Phase of the video tokens of one frame at rest in time: [N,d/2]."""
        return space_phase(*grid, self.config.video.head_dim, self.config.rotary_base, device)

    def struct_times(self, latent: Tensor) -> Tensor:
        """Latent times [B,F,M] of the struct tokens of latents [B,F]; the single packed token stands at the last."""
        slot = torch.arange(STRIDE, device=latent.device)[-self.config.struct_tokens :]
        return latent[..., None] + (slot - FRONT_FRAMES) / STRIDE

    def places(self, tower: Tower, time: Tensor, rest: Phase | None) -> Places:
        """Phases of tokens at latent times [B,F,N or 1], for the heads of `tower`."""
        size = self.config.video if tower is self.video else self.config.struct
        assert size is not None
        turn = time_phase(time, size.head_dim, self.config.rotary_base)
        if rest is None:
            return Places(turn, None, turn)
        cos, sin = (part.expand(*time.shape[:2], rest[0].shape[0], -1) for part in turn)
        c = cos.shape[-1]
        full = tuple(
            torch.cat([p, r[None, None, :, c:].expand(*p.shape[:3], -1)], -1)
            for p, r in zip((cos, sin), rest, strict=True)
        )
        return Places(full, rest, turn)  # type: ignore[arg-type]

    def here(self, places: Places) -> Places:
        """Of places of all video tokens, those of this process's."""
        part = self.video.exchange.part
        cos, sin = (part(phase, 2) for phase in places.full)
        rest = None if places.rest is None else (part(places.rest[0], 0), part(places.rest[1], 0))
        return places._replace(full=(cos, sin), rest=rest)

    def clock(self, video: Tensor, struct: Tensor) -> Clock:
        """Time phases of video tokens at [B,F,1] and struct tokens at [B,F,M], in the frequencies of both towers."""
        assert self.config.struct is not None
        dims, base = (self.config.video.head_dim, self.config.struct.head_dim), self.config.rotary_base
        return Clock(*(time_phase(time, dim, base) for dim in dims for time in (video, struct)))

    # -- what exists and what is seen --------------------------------------------------------------------------------

    def struct_exists(self, start: Tensor, frames: int, valid: Tensor | None) -> Tensor:
        """Struct slots [B,F,4] that hold a raw frame of the clip (latent 0 holds one) and, if given, are valid."""
        latent = start[:, None] + torch.arange(frames, device=start.device)
        raw = STRIDE * latent[..., None] + torch.arange(STRIDE, device=start.device) - FRONT_FRAMES
        return raw >= 0 if valid is None else (raw >= 0) & valid

    def token_exists(self, slots: Tensor) -> Tensor:
        """Struct tokens [B,F,M] that may be seen. The last token of a latent always is, so no query sees nothing."""
        tokens = slots.reshape(*slots.shape[:2], self.config.struct_tokens, -1).any(-1)
        last = torch.arange(tokens.shape[-1], device=tokens.device) == tokens.shape[-1] - 1
        return tokens | last

    def look_at_reference(
        self, given: Conditions, batch: int, grid: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Tensor | None, list[KeyValue], dict[int, KeyValue | None]]:
        """The reference as condition channels (zero where dropped), and its keys and values for every layer."""
        picture = pictured(given)
        picture = None if picture is None else picture.to(dtype)
        block = self.video.reference_tokens(picture, given.drop_reference, batch, grid[0] * grid[1])
        bridges = {int(layer): cast("Bridge", bridge) for layer, bridge in self.bridges.items()}
        own, across = self.video.sinks(block, self.rest(grid, block.device), bridges)
        return picture, own, across

    def listen(self, tower: Tower, given: Conditions, batch: int, frames: int) -> Tensor | None:
        """Audio tokens [B,left+8F+lookahead,D] of a tower, or None when it has no block that hears."""
        if tower.audio is None:
            return None
        n = AUDIO_PER_LATENT * (frames - 1) + self.config.audio_span
        if given.audio is not None and given.audio.shape[1] != n:
            raise ValueError(f"{frames} latents hear {n} audio features, got {given.audio.shape[1]}")
        return tower.audio(given.audio, given.audio_valid, given.drop_audio, batch, n)

    def source(self, tower: Tower, given: Conditions, start: Tensor, frames: int) -> Source:
        """Text and sound of a window of `frames` latents from `start` [B], as the blocks of a tower read them."""
        sound = self.listen(tower, given, len(start), frames)
        phase = self.sound_phase(tower, start, frames)
        tokens, mask = tower.text(given, len(start))
        return Source(tokens, mask, sound, phase, self.config.audio_span)

    def sound_phase(self, tower: Tower, start: Tensor, frames: int) -> Phase:
        """Phases of the audio features that `frames` latents from `start` [B] hear, for the heads of `tower`."""
        size = self.config.video if tower is self.video else self.config.struct
        assert size is not None
        n = AUDIO_PER_LATENT * (frames - 1) + self.config.audio_span
        first = AUDIO_PER_LATENT * start - FRONT_AUDIO - self.config.audio_left
        feature = first[:, None] + torch.arange(n, device=start.device)
        return time_phase(feature / AUDIO_PER_LATENT, size.head_dim, self.config.rotary_base)

    def _check(
        self, video: Tensor, struct: Tensor | None, sigma_video: Tensor, sigma_struct: Tensor | None, given: Conditions
    ) -> None:
        B, C, F = video.shape[:3]
        if self.config.latent_channels != C:
            raise ValueError(f"the model reads {self.config.latent_channels} latent channels, got {C}")
        if sigma_video.shape != (B, F):
            raise ValueError(f"sigma_video is one per frame {(B, F)}, got {tuple(sigma_video.shape)}")
        if given.reference is not None and given.reference.shape != (B, C, *video.shape[3:]):
            raise ValueError(f"the reference is {(B, C, *video.shape[3:])}, got {tuple(given.reference.shape)}")
        if (struct is None) != (self.struct is None):
            raise ValueError("a struct stream goes with a struct tower, and the other way round")
        if struct is not None:
            if struct.shape != (B, F, STRIDE, self.config.struct_dim):
                raise ValueError(f"struct is {(B, F, STRIDE, self.config.struct_dim)}, got {tuple(struct.shape)}")
            if sigma_struct is None or sigma_struct.shape != (B, F):
                raise ValueError(f"sigma_struct is one per frame {(B, F)}")


def pictured(given: Conditions) -> Tensor | None:
    """The reference [B,16,H,W] of samples that have one, zero for the others; None where there is none at all."""
    if given.reference is None or given.drop_reference is None:
        return given.reference
    return given.reference.masked_fill(given.drop_reference[:, None, None, None], 0.0)


def frames_seen(frames: int, window: int | None, device: torch.device) -> Tensor:
    """[F,F] True where the row's frame may see the column's: not later, and inside the window."""
    behind = torch.arange(frames, device=device)[:, None] - torch.arange(frames, device=device)
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)


def without(given: Conditions, **dropped: bool) -> Conditions:
    """The same conditions with some replaced by their nulls for all samples: `without(given, audio=True)`."""
    return replace(given, **{name: None for name, drop in dropped.items() if drop})
