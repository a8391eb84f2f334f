"""The rollout: latents out of noise, chunk by chunk, for one speaker or several in step. It knows tensors, no files.

S speakers, C latents per chunk, h×w latent cells, A numbers per audio feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dualforce_model.diffusion import ScheduleConfig, add_noise, chunk_schedule, generator_for, integrate, normal
from dualforce_model.generate.config import GenerateConfig
from dualforce_model.generate.guidance import Branches
from dualforce_model.generate.passes import Passes
from dualforce_model.model import Conditions, DualForce
from dualforce_model.timeline import STRIDE


class Given(NamedTuple):
    """Struct latents that drive instead of being generated: struct [S,C,4,72] standardised, known [S,C]."""

    struct: Tensor
    known: Tensor


class Rollout:
    """Draws the latents of S speakers, C at a time.

    Every speaker's noise comes from its own seed and the latent's index, so neither company nor chunks change it.
    """

    def __init__(
        self,
        model: DualForce,
        config: GenerateConfig,
        window: int,
        sigma_s_max: float,
        references: Tensor,
        seeds: Sequence[int],
        text: Tensor | None = None,
    ):
        """Look at `references` [S,16,h,w]. `window`: latents that a latent sees; text [S_t,4096], for all speakers."""
        self.model, self.device = model, references.device
        self.branches = Branches.of(config, text is not None)
        self._sigma_s_max = sigma_s_max
        S = len(references)
        self._plan(config, references, seeds, text)
        with torch.inference_mode():
            given, rows = self._conditions(references, text), self.branches.rows
            size = (references.shape[-2], references.shape[-1])
            self.cache = model.new_cache(given, size, rows * S, window, chunk=config.chunk)
            self.passes = Passes(model, self.cache, self.branches, S)
            self._shape = (model.config.latent_channels, *size)
            if self.device.type == "cuda":
                self._record(references, text)

    def restart(
        self, config: GenerateConfig, references: Tensor, seeds: Sequence[int], text: Tensor | None = None
    ) -> None:
        """Begin again in the memory that is there; for as many speakers, with the same chunk, window and guidance."""
        self._plan(config, references, seeds, text)
        with torch.inference_mode():
            self.model.restart(self.cache, self._conditions(references, text))

    def _plan(self, config: GenerateConfig, references: Tensor, seeds: Sequence[int], text: Tensor | None) -> None:
        self.config, self.seeds, self.text = config, tuple(seeds), text
        schedule = ScheduleConfig(
            config.steps, config.struct_lead, config.shift, config.order, self._sigma_s_max, config.stagger
        )
        S = len(references)
        levels = chunk_schedule(schedule, config.chunk)
        self._levels = tuple(level.to(self.device)[:, None].expand(-1, S, -1) for level in levels)
        self.context = torch.full((S, config.chunk), config.context_sigma, device=self.device)

    @property
    def latent(self) -> int:
        """Index of the first latent of the next chunk."""
        return self.cache.latent

    def draw(self, audio: Tensor, valid: Tensor, given: Given | None = None) -> tuple[Tensor, Tensor | None]:
        """The next chunk: latents [S,16,C,h,w], normalised, and struct latents [S,C,4,72], standardised.

        audio [S,span,A] is what its latents hear (`timeline.audio_heard`), standardised; valid [S,span] what exists.
        """
        self.begin(audio, valid)
        video, struct = self.denoise(given)
        self.commit(video, struct)
        return video, struct

    @torch.inference_mode()
    def begin(self, audio: Tensor, valid: Tensor) -> None:
        """Give the next chunk its sound."""
        self.passes.prepare(audio, valid)

    @torch.inference_mode()
    def denoise(self, given: Given | None = None) -> tuple[Tensor, Tensor | None]:
        """From noise to clean, for the chunk that was begun."""
        sigma_video, sigma_struct = self._levels
        video, struct = self.noise()
        if struct is None:
            return integrate(self.passes.velocity, video, None, sigma_video, None, self.config.order)
        if given is not None:
            struct = torch.where(given.known[..., None, None], given.struct, struct)
            sigma_struct = torch.where(given.known, 0.0, sigma_struct)
        return integrate(self.passes.velocity, video, struct, sigma_video, sigma_struct, self.config.order)

    @torch.inference_mode()
    def commit(self, video: Tensor, struct: Tensor | None) -> None:
        """The chunk joins the past, clean or in a little noise of its own; what was drawn is not touched."""
        if self.config.context_sigma:
            noise_video, noise_struct = self.noise("context")
            video = add_noise(video, noise_video, self.context, 2)
            struct = None if struct is None or noise_struct is None else add_noise(
                struct, noise_struct, self.context, 1
            )  # fmt: skip
        self.passes.velocity(video, struct, self.context, None if struct is None else self.context)
        self.model.advance(self.cache)

    def noise(self, *keys: str) -> tuple[Tensor, Tensor | None]:
        """Where video [S,16,C,h,w] and struct [S,C,4,72] begin; the same for a latent whatever stands beside it."""
        C, channels, dim = self.config.chunk, self._shape[0], self.model.config.struct_dim
        videos, structs = [], []
        for seed in self.seeds:
            for latent in range(self.latent, self.latent + C):
                draw = generator_for("generate", *keys, seed, latent)
                videos.append(normal((channels, *self._shape[1:]), draw, "cpu"))
                if self.model.struct is not None:
                    structs.append(normal((STRIDE, dim), draw, "cpu"))
        video = moved(torch.stack(videos).unflatten(0, (-1, C)).transpose(1, 2), self.device)
        if not structs:
            return video, None
        struct = torch.stack(structs).unflatten(0, (-1, C))
        return video, moved(struct if keys else struct * self._sigma_s_max, self.device)

    def _conditions(self, references: Tensor, text: Tensor | None) -> Conditions:
        branches, S = self.branches, len(references)
        drop = {name: branches.drop(name, S, self.device) for name in ("audio", "reference")}
        given = Conditions(
            reference=branches.spread(references), drop_audio=drop["audio"], drop_reference=drop["reference"]
        )
        if text is not None:
            given.text = text.to(self.device).expand(branches.rows * S, *text.shape)
            given.drop_text = branches.drop("text", S, self.device)
        return given

    def _record(self, references: Tensor, text: Tensor | None) -> None:
        """Record every pass that a rollout will need, on silence; then forget it."""
        while True:
            filled = self.cache.filled
            self.begin(self.cache.audio[: len(references)], self.cache.audio_valid[: len(references)])
            video, struct = self.noise()
            self.commit(video, struct)
            if self.cache.filled == filled == self.cache.slots:
                break
        self.passes.passes = 0
        self.model.restart(self.cache, self._conditions(references, text))


def moved(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`, without making the host wait for what the device does."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
