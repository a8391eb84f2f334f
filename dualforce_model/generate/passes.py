"""The device's share of a frame, as two functions on tensors that stay where they are: `prepare` and `velocity`.

Launched one by one, the kernels of a pass take several times as long as they run. On a GPU both functions are recorded
as CUDA graphs, one per number of frames in the cache, and replayed by one call each; on a CPU the same functions run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dualforce_model.diffusion.recorded import graph_of
from dualforce_model.generate.guidance import Branches
from dualforce_model.model import Cache, DualForce
from dualforce_model.timeline import STRIDE


class Passes:
    """Passes of the current chunk of one cache: S speakers, C latents, guided rows made and combined here."""

    def __init__(self, model: DualForce, cache: Cache, branches: Branches, speakers: int):
        config, device, C = model.config, cache.slot.device, cache.chunk
        self.model, self.cache, self.branches = model, cache, branches
        size = (cache.grid[0] * config.patch, cache.grid[1] * config.patch)
        self.passes = 0  # asked for so far; each is one forward pass over all rows
        self._video = torch.zeros(speakers, config.latent_channels, C, *size, device=device)
        self._sigma_video = torch.zeros(speakers, C, device=device)
        self._velocity = torch.zeros_like(self._video)
        self._struct = self._sigma_struct = self._struct_velocity = None
        if model.struct is not None:
            self._struct = torch.zeros(speakers, C, STRIDE, config.struct_dim, device=device)
            self._sigma_struct = torch.zeros_like(self._sigma_video)
            self._struct_velocity = torch.zeros_like(self._struct)
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._replays: dict[str | int, Callable[[], object]] = {}

    @property
    def recorded(self) -> int:
        """Functions kept: bounded by the window, however long a rollout is."""
        return len(self._replays)

    @torch.inference_mode()
    def prepare(self, audio: Tensor, valid: Tensor) -> None:
        """Take the next chunk: its sound [S,span,A], and which of it exists [S,span]."""
        self.cache.place()
        self.model.give_sound(self.cache, self.branches.spread(audio), self.branches.spread(valid))
        self._run("prepare", self._prepare)

    @torch.inference_mode()
    def velocity(
        self, video: Tensor, struct: Tensor | None, sigma_video: Tensor, sigma_struct: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Guided velocities of video [S,16,C,H,W] and struct [S,C,4,72] at levels [S,C]."""
        self.passes += 1
        self._video.copy_(video)
        self._sigma_video.copy_(sigma_video)
        if self._struct is not None and struct is not None:
            assert self._sigma_struct is not None
            assert sigma_struct is not None
            self._struct.copy_(struct)
            self._sigma_struct.copy_(sigma_struct)
        self._run(self.cache.filled, self._denoise)
        # copies: the next replay writes into the same tensors
        return self._velocity.clone(), None if self._struct_velocity is None else self._struct_velocity.clone()

    def _prepare(self) -> None:
        self.model.prepare(self.cache)

    def _denoise(self) -> None:
        spread, combine = self.branches.spread, self.branches.combine
        struct = None if self._struct is None else spread(self._struct)
        sigma_struct = None if self._sigma_struct is None else spread(self._sigma_struct)
        found = self.model.denoise_frame(
            self.cache, spread(self._video), struct, spread(self._sigma_video), sigma_struct
        )
        self._velocity.copy_(combine(found.video))
        if self._struct_velocity is not None and found.struct is not None:
            self._struct_velocity.copy_(combine(found.struct))

    def _run(self, key: str | int, function: Callable[[], None]) -> None:
        if key not in self._replays:
            self._replays[key] = function if self._pool is None else self._recorded(function)
        self._replays[key]()

    def _recorded(self, function: Callable[[], None]) -> Callable[[], object]:
        """`function` as a CUDA graph. It runs a few times first, so that it is compiled, tuned and has its memory."""

        def rehearse() -> None:
            for _ in range(2):
                function()

        graph, _ = graph_of(function, rehearse, self._pool)
        replay: Callable[[], object] = graph.replay
        return replay
