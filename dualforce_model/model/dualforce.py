"""DualForce, the model: what `Duo` computes for a window at once, also one latent frame at a time, with a cache.

    cache = model.new_cache(conditions, grid, window=20)      # looks at the reference and the text once
    for each frame:
        model.begin_frame(cache, audio)                       # this frame's sound, times and slot
        for each step: model.denoise_frame(cache, video, struct, sigma_video, sigma_struct)
        model.commit_frame(cache, video, struct)              # the final frame joins the past

B batch, H×W latent cells, N video tokens, M struct tokens per frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dualforce_model.model.bridge import Sight
from dualforce_model.model.cache import Cache, Ring
from dualforce_model.model.checkpointing import Checkpointing
from dualforce_model.model.conditioning import Conditions
from dualforce_model.model.duo import Duo, Passage, Velocity
from dualforce_model.model.rotary import rotate, time_phase


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
                block.compile(**options)
                for name in ("hear", "reference"):
                    setattr(block, name, torch.compile(getattr(block, name), **options))
        for bridge in self.bridges.values():
            bridge.compile(**options)

    def new_cache(
        self, conditions: Conditions, grid: tuple[int, int], batch: int, window: int, start: int = 0
    ) -> Cache:
        """An empty cache for `batch` samples in step, on a latent grid H×W, whose first frame is latent `start`.

        `window` is the number of latents that a latent may see, itself included; older ones are evicted whole.
        The conditions' audio is not read here: each frame brings its own.
        """
        if window < 1:
            raise ValueError(f"a window holds at least the latent itself, got {window}")
        if self.config.window is not None and window > self.config.window:
            raise ValueError(f"the model was made for windows of {self.config.window} latents, got {window}")
        patches = (grid[0] // self.config.patch, grid[1] // self.config.patch)
        N, M = patches[0] * patches[1], self.config.struct_tokens
        like = self.video.embed.weight
        reference, sinks, across = self.look_at_reference(conditions, batch, patches, like.dtype)
        size, slim, bridges = self.config.video, self.config.struct, list(across)
        own = [Ring(batch, window, N, size.heads, size.head_dim, like, front=1) for _ in self.video.blocks]
        for ring, (_, v) in zip(own, sinks, strict=True):
            ring.v[:, 0] = v
        cache = Cache(
            window=window,
            grid=patches,
            start=start,
            video=own,
            struct=[],
            bridge_video=[],
            bridge_struct=[],
            sink=sinks,
            bridge_sink=[across[layer] for layer in bridges],
            reference=reference,
            video_text=self.video.text(conditions, batch),
            slot=torch.zeros(1, dtype=torch.long, device=like.device),
            slot_after_front=torch.ones(1, dtype=torch.long, device=like.device),
            struct_mask=torch.zeros(batch, 1, window, M, dtype=torch.bool, device=like.device),
            latents=torch.full((batch,), start, dtype=torch.long, device=like.device),
            drop_audio=conditions.drop_audio,
            drop_reference=conditions.drop_reference,
        )
        if self.struct is not None and slim is not None:
            cache.struct = [Ring(batch, window, M, slim.heads, slim.head_dim, like) for _ in self.struct.blocks]
            cache.struct_text = self.struct.text(conditions, batch)
            direction = self.config.bridge.direction
            for _ in bridges:
                to_struct = Ring(batch, window, N, slim.heads, slim.head_dim, like)
                to_video = Ring(batch, window, M, size.heads, size.head_dim, like)
                cache.bridge_video.append(to_struct if direction != "struct_to_video" else None)
                cache.bridge_struct.append(to_video if direction != "video_to_struct" else None)
        return cache

    def begin_frame(self, cache: Cache, audio: Tensor | None, audio_valid: Tensor | None = None) -> None:
        """Take the next frame: its sound [B,audio_span,A], its place in time, its slot. Between commits only."""
        B, device = cache.struct_mask.shape[0], cache.slot.device
        slot = cache.frame % cache.window
        cache.slot.fill_(slot)
        cache.slot_after_front.fill_(slot + 1)
        start = cache.latents.fill_(cache.latent)
        given = Conditions(audio=audio, audio_valid=audio_valid, drop_audio=cache.drop_audio)
        video_time = start[:, None]
        rest = self.rest(cache.grid, device)
        sound = self.listen(self.video, given, B, 1)
        cache.hold("video_heard", self.hear(self.video, cache.video_text, sound, start, 1))
        cache.hold("video_places", self.places(self.video, video_time[..., None], rest))
        turn = time_phase(video_time, self.config.video.head_dim, self.config.rotary_base)
        for ring, (k, _) in zip(cache.video, cache.sink, strict=True):
            ring.k[:, 0] = rotate(k, turn)  # the reference stands at the instant of whoever looks
        if self.struct is not None:
            assert cache.struct_text is not None
            slots = self.struct_times(video_time)
            sound = self.listen(self.struct, given, B, 1)
            cache.hold("struct_heard", self.hear(self.struct, cache.struct_text, sound, start, 1))
            cache.hold("struct_places", self.places(self.struct, slots, None))
            cache.hold("clock", self.clock(video_time[..., None], slots))
            cache.struct_mask[:, :, slot] = self.token_exists(self.struct_exists(start, 1, None))
        cache.begun = True

    def denoise_frame(
        self,
        cache: Cache,
        video: Tensor,
        struct: Tensor | None,
        sigma_video: Tensor,
        sigma_struct: Tensor | None,
    ) -> Velocity:
        """Velocities of the frame that was begun: video [B,16,1,H,W], struct [B,1,4,72], sigmas [B,1].

        Changes nothing but the frame's own slots, which the next call overwrites.
        """
        if not cache.begun:
            raise ValueError("begin_frame comes before denoise_frame, and once more after each commit_frame")
        return self.pass_frame(cache, video, struct, sigma_video, sigma_struct)

    def commit_frame(self, cache: Cache, video: Tensor, struct: Tensor | None, sigma: float = 0.0) -> None:
        """The frame is final: store its keys and values as seen at noise level `sigma`, and move to the next.

        At sigma > 0 pass the frame with that much noise in it, as in training.
        """
        level = torch.full((video.shape[0], 1), sigma, device=video.device)
        self.denoise_frame(cache, video, struct, level, None if struct is None else level)
        self.advance(cache)

    def advance(self, cache: Cache) -> None:
        """Make the current frame past, with the keys and values of its last pass."""
        cache.frame += 1
        cache.begun = False

    def pass_frame(
        self,
        cache: Cache,
        video: Tensor,
        struct: Tensor | None,
        sigma_video: Tensor,
        sigma_struct: Tensor | None,
    ) -> Velocity:
        """One pass of the current frame through both towers, against the rings. Static shapes, no host reads."""
        self._check(video, struct, sigma_video, sigma_struct, Conditions())
        dtype, seen = self.video.embed.weight.dtype, cache.visible
        level, modulation = self.video.noise(sigma_video)
        past = [ring.view(cache.slot_after_front, seen) for ring in cache.video]
        assert cache.video_places is not None
        passage = Passage(modulation, cache.video_places, cache.video_heard, None, past)
        x = self.video.tokens(video.to(dtype), cache.reference)
        if self.struct is None:
            x, _ = self.run(x, None, passage)
            return Velocity(self.frame_velocity(cache, x, level, video, sigma_video), None)

        assert struct is not None
        assert sigma_struct is not None
        struct_level, passage.struct_modulation = self.struct.noise(sigma_struct)
        passage.struct_places, passage.struct_heard = cache.struct_places, cache.struct_heard
        passage.struct_mask = cache.struct_mask[:, :, :seen]
        passage.struct_past = [ring.view(cache.slot, seen) for ring in cache.struct]
        passage.clock = cache.clock
        passage.sights = {}
        for n, layer in enumerate(self.config.bridge_layers):
            to_video, to_struct = cache.bridge_struct[n], cache.bridge_video[n]
            passage.sights[layer] = (
                Sight(passage.struct_mask, None, None if to_video is None else to_video.view(cache.slot, seen)),
                Sight(None, cache.bridge_sink[n], None if to_struct is None else to_struct.view(cache.slot, seen)),
            )
        exists = self.struct_exists(cache.latents, 1, None)
        x, s = self.run(x, self.struct.tokens(struct.to(dtype), exists), passage)
        assert s is not None
        velocity = self.struct.velocity(s, struct_level)
        flame = self.struct.read_flame(struct.float() - sigma_struct[..., None, None] * velocity)
        return Velocity(self.frame_velocity(cache, x, level, video, sigma_video), velocity, flame)

    def frame_velocity(self, cache: Cache, x: Tensor, level: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The video velocity [B,16,1,H,W] of the current frame."""
        return self.video_velocity(x, level, cache.grid, noisy, sigma, cache.reference, cache.drop_reference)
