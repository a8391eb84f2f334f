"""DualForce, the model: what `Duo` computes for a window at once, also one latent frame at a time, with a cache.

    cache = model.new_cache(conditions, grid, batch, window)  # looks at the reference and the text once
    for each frame:
        model.begin_frame(cache, audio)                       # this frame's sound, times and slot
        for each step: model.denoise_frame(cache, video, struct, sigma_video, sigma_struct)
        model.commit_frame(cache, video, struct)              # the final frame joins the past

With `chunk` C > 1 a "frame" here is C successive frames that are denoised together, each seeing those up to itself.
B batch, H×W latent cells, N video tokens, M struct tokens per frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dualforce_model.model.block import Heard, KeyValue
from dualforce_model.model.bridge import Sight
from dualforce_model.model.cache import Cache, Ring
from dualforce_model.model.checkpointing import Checkpointing
from dualforce_model.model.conditioning import Conditions
from dualforce_model.model.duo import Duo, Passage, Velocity
from dualforce_model.model.rotary import rotate, time_phase
from dualforce_model.model.towers import Tower
from dualforce_model.timeline import AUDIO_PER_LATENT


class DualForce(Duo):
    """The model. `forward` sees a window at once (training); the methods here drive it frame by frame."""

    def set_checkpointing(self, *kinds: Checkpointing) -> None:
        """Choose what backward remembers: one kind for all blocks, or one per block (video blocks, then struct)."""
        blocks = self.video.layers() + ([] if self.struct is None else self.struct.layers())
        chosen = kinds * len(blocks) if len(kinds) == 1 else kinds
        for block, kind in zip(blocks, chosen, strict=True):
            block.checkpointing = kind

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile block by block: layers of one kind share their code, so it takes the time of a few blocks, not forty.

        One entry per shape of a run and kind of block; the limit is raised, because past it torch would fall back to
        uncompiled code without a word.
        """
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        options: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": backend}
        towers = [self.video] if self.struct is None else [self.video, self.struct]
        for tower in towers:
            for block in tower.layers():
                for name in ("hear", "reference", "forward"):  # `window` calls them, and is where weights are gathered
                    setattr(block, name, torch.compile(getattr(block, name), **options))
        for bridge in self.bridges.values():
            bridge.compile(**options)

    def compile_steps(self, backend: str = "inductor") -> None:
        """Compile what a rollout runs, around the attention to its rings: there alone shapes change along a rollout.

        So each kind of block is compiled once, however many frames are seen. Not to be mixed with `compile_blocks`.
        """
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        options: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": backend}
        if backend == "inductor":
            # its patterns take the attention to one speaker's sound for another one, with heads for keys, and fail
            options["options"] = {"pattern_matcher": False}
        towers = [self.video] if self.struct is None else [self.video, self.struct]
        parts: list[Any] = [block for tower in towers for block in tower.layers()]
        for bridge in self.bridges.values():
            parts += [gaze for gaze in (bridge.to_video, bridge.to_struct) if gaze is not None]
        for part in parts:
            part.enter = torch.compile(part.enter, **options)
            part.leave = torch.compile(part.leave, **options)
        for tower in towers:
            tower.noise.compile(**options)
            tower.head.compile(**options)
            for block in tower.layers():
                block.listen = torch.compile(block.listen, **options)  # type: ignore[method-assign]

    def new_cache(
        self,
        conditions: Conditions,
        grid: tuple[int, int],
        batch: int,
        window: int,
        start: int = 0,
        chunk: int = 1,
    ) -> Cache:
        """An empty cache for `batch` samples in step, on a latent grid H×W, whose first frame is latent `start`.

        `window` is the number of latents that a latent may see, itself included; older ones are evicted whole.
        `chunk` latents are denoised together. The conditions' audio is not read here: each chunk brings its own.
        """
        if min(window, chunk) < 1:
            raise ValueError(f"a window and a chunk hold at least the latent itself, got {window} and {chunk}")
        if self.config.window is not None and window > self.config.window:
            raise ValueError(f"the model was made for windows of {self.config.window} latents, got {window}")
        patches = (grid[0] // self.config.patch, grid[1] // self.config.patch)
        N, M, C, R = patches[0] * patches[1], self.config.struct_tokens, chunk, window + chunk - 1
        like = self.video.embed.weight
        device = like.device
        size, slim, bridges = self.config.video, self.config.struct, len(self.bridges)
        span = self.config.audio_span + AUDIO_PER_LATENT * (C - 1)
        cache = Cache(
            window=window,
            chunk=C,
            grid=patches,
            start=start,
            video=[Ring(batch, R, N, size.heads, size.head_dim, like, front=C) for _ in self.video.blocks],
            struct=[],
            bridge_video=[],
            bridge_struct=[],
            slot=torch.zeros(C, dtype=torch.long, device=device),
            slot_after_front=torch.full((C,), C, dtype=torch.long, device=device),
            order=torch.zeros(C, C + R, dtype=torch.long, device=device),
            visible=torch.ones(C, R, dtype=torch.bool, device=device),
            latents=torch.full((batch,), start, dtype=torch.long, device=device),
            exists=torch.zeros(batch, R, M, dtype=torch.bool, device=device),
            audio=torch.zeros(batch, span, self.config.audio_dim, device=device),
            audio_valid=torch.zeros(batch, span, dtype=torch.bool, device=device),
        )
        if self.struct is not None and slim is not None:
            cache.struct = [Ring(batch, R, M, slim.heads, slim.head_dim, like) for _ in self.struct.blocks]
            direction = self.config.bridge.direction
            for _ in range(bridges):
                to_struct = Ring(batch, R, N, slim.heads, slim.head_dim, like)
                to_video = Ring(batch, R, M, size.heads, size.head_dim, like)
                cache.bridge_video.append(to_struct if direction != "struct_to_video" else None)
                cache.bridge_struct.append(to_video if direction != "video_to_struct" else None)
        self.restart(cache, conditions)
        return cache

    def restart(self, cache: Cache, conditions: Conditions) -> None:
        """Forget the past and look at another reference and text, in the tensors that are there.

        Raises ValueError when these conditions are of another shape than those that the cache was made for.
        """
        batch, dtype = cache.exists.shape[0], self.video.embed.weight.dtype
        reference, sinks, across = self.look_at_reference(conditions, batch, cache.grid, dtype)
        cache.hold("sink", sinks)
        cache.hold("bridge_sink", list(across.values()))
        for name, value in (
            ("reference", reference),
            ("drop_audio", conditions.drop_audio),
            ("drop_reference", conditions.drop_reference),
        ):
            cache.hold(name, value)
        for ring, (_, v) in zip(cache.video, sinks, strict=True):
            ring.v[:, : cache.chunk] = v[:, None]
        masks = []
        for tower in [self.video] if self.struct is None else [self.video, self.struct]:
            text, mask = tower.text(conditions, batch)
            masks.append(mask[:, None, None])
            cache.hold(
                "video_text" if tower is self.video else "struct_text", [block.read(text) for block in tower.layers()]
            )
        cache.hold("text_masks", masks)
        cache.frame, cache.begun = 0, False

    def begin_frame(self, cache: Cache, audio: Tensor | None, audio_valid: Tensor | None = None) -> None:
        """Take the next chunk: its sound [B,audio_span+8(C-1),A], its place in time, its slots. Between commits only.

        audio_valid [B,…] says which features exist (all, when None); without `audio` none does.
        """
        cache.place()
        self.give_sound(cache, audio, audio_valid)
        self.prepare(cache)

    def give_sound(self, cache: Cache, audio: Tensor | None, audio_valid: Tensor | None) -> None:
        """Put the chunk's sound where `prepare` reads it."""
        if audio is None:
            cache.audio_valid.fill_(False)
            return
        if audio.shape[1] != cache.audio.shape[1]:
            raise ValueError(f"{cache.chunk} latents hear {cache.audio.shape[1]} audio features, got {audio.shape[1]}")
        cache.audio.copy_(audio)
        if audio_valid is None:
            cache.audio_valid.fill_(True)
        else:
            cache.audio_valid.copy_(audio_valid)

    def prepare(self, cache: Cache) -> None:
        """From place and sound of the chunk to all that its passes need. Static shapes, no host reads."""
        B, C, device = cache.exists.shape[0], cache.chunk, cache.slot.device
        given = Conditions(audio=cache.audio, audio_valid=cache.audio_valid, drop_audio=cache.drop_audio)
        video_time = cache.latents[:, None] + torch.arange(C, device=device)
        cache.hold("video_heard", self.hear_alone(self.video, given, B, cache.latents, C))
        cache.hold("video_places", self.places(self.video, video_time[..., None], self.rest(cache.grid, device)))
        turn = time_phase(video_time[..., None], self.config.video.head_dim, self.config.rotary_base)
        for ring, (k, _) in zip(cache.video, cache.sink, strict=True):
            ring.k[:, :C] = rotate(
                k[:, None].expand(-1, C, -1, -1, -1), turn
            )  # the reference stands at the instant of whoever looks
        if self.struct is not None:
            slots = self.struct_times(video_time)
            cache.hold("struct_heard", self.hear_alone(self.struct, given, B, cache.latents, C))
            cache.hold("struct_places", self.places(self.struct, slots, None))
            cache.hold("clock", self.clock(video_time[..., None], slots))
            exists = self.token_exists(self.struct_exists(cache.latents, C, None))
            cache.exists.index_copy_(1, cache.slot, exists)

    def hear_alone(
        self, tower: Tower, given: Conditions, batch: int, start: Tensor, frames: int
    ) -> list[KeyValue | None]:
        """Keys and values of the sound for every block of a tower; None in those that do not hear."""
        sound = self.listen(tower, given, batch, frames)
        phase = self.sound_phase(tower, start, frames)
        return [block.listen(sound, phase, self.config.audio_span) for block in tower.layers()]

    def denoise_frame(
        self,
        cache: Cache,
        video: Tensor,
        struct: Tensor | None,
        sigma_video: Tensor,
        sigma_struct: Tensor | None,
    ) -> Velocity:
        """Velocities of the chunk that was begun: video [B,16,C,H,W], struct [B,C,4,72], sigmas [B,C].

        Changes nothing but the chunk's own slots, which the next call overwrites.
        """
        if not cache.begun:
            raise ValueError("begin_frame comes before denoise_frame, and once more after each commit_frame")
        return self.pass_frame(cache, video, struct, sigma_video, sigma_struct)

    def commit_frame(self, cache: Cache, video: Tensor, struct: Tensor | None, sigma: float = 0.0) -> None:
        """The chunk is final: store its keys and values as seen at noise level `sigma`, and move to the next.

        At sigma > 0 pass the frames with that much noise in them, as in training.
        """
        level = torch.full((video.shape[0], cache.chunk), sigma, device=video.device)
        self.denoise_frame(cache, video, struct, level, None if struct is None else level)
        self.advance(cache)

    def advance(self, cache: Cache) -> None:
        """Make the current chunk past, with the keys and values of its last pass."""
        cache.frame += cache.chunk
        cache.begun = False

    def pass_frame(
        self,
        cache: Cache,
        video: Tensor,
        struct: Tensor | None,
        sigma_video: Tensor,
        sigma_struct: Tensor | None,
    ) -> Velocity:
        """One pass of the current chunk through both towers, against the rings. Static shapes, no host reads."""
        self._check(video, struct, sigma_video, sigma_struct, Conditions())
        dtype, filled, C = self.video.embed.weight.dtype, cache.filled, cache.chunk
        level, modulation = self.video.noise(sigma_video)
        orders = cache.orders()
        past = [ring.view(cache.slot_after_front, filled, orders) for ring in cache.video]
        assert cache.video_places is not None
        heard = [Heard(t, cache.text_masks[0], a) for t, a in zip(cache.video_text, cache.video_heard, strict=True)]
        passage = Passage(modulation, cache.video_places, heard, past)
        x = self.video.tokens(video.to(dtype), cache.reference)
        if self.struct is None:
            x, _ = self.run(x, None, passage)
            return Velocity(self.frame_velocity(cache, x, level, video, sigma_video), None)

        assert struct is not None
        assert sigma_struct is not None
        struct_level, passage.struct_modulation = self.struct.noise(sigma_struct)
        passage.struct_places = cache.struct_places
        passage.struct_heard = [
            Heard(t, cache.text_masks[1], a) for t, a in zip(cache.struct_text, cache.struct_heard, strict=True)
        ]
        visible = cache.visible[None, :, :filled, None]  # all of it for a single frame
        passage.struct_mask = cache.exists[:, None, :filled] & visible
        passage.struct_past = [ring.view(cache.slot, filled) for ring in cache.struct]
        passage.clock = cache.clock
        passage.sights = {}
        to_struct_mask = None if C == 1 else visible.expand(1, C, filled, x.shape[2])
        for n, layer in enumerate(self.config.bridge_layers):
            to_video, to_struct = cache.bridge_struct[n], cache.bridge_video[n]
            passage.sights[layer] = (
                Sight(passage.struct_mask, None, None if to_video is None else to_video.view(cache.slot, filled)),
                Sight(
                    to_struct_mask,
                    cache.bridge_sink[n],
                    None if to_struct is None else to_struct.view(cache.slot, filled),
                ),
            )
        exists = self.struct_exists(cache.latents, C, None)
        x, s = self.run(x, self.struct.tokens(struct.to(dtype), exists), passage)
        assert s is not None
        velocity = self.struct.velocity(s, struct_level)
        flame = self.struct.read_flame(struct.float() - sigma_struct[..., None, None] * velocity)
        return Velocity(self.frame_velocity(cache, x, level, video, sigma_video), velocity, flame)

    def frame_velocity(self, cache: Cache, x: Tensor, level: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The video velocity [B,16,C,H,W] of the current chunk."""
        return self.video_velocity(x, level, cache.grid, noisy, sigma, cache.reference, cache.drop_reference)
