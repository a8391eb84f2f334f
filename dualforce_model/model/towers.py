"""The two towers: what each makes of its stream before and after its blocks.

B batch, F latent frames, H×W latent cells, h×w patches, N = h·w video tokens per frame, D width, C latent channels.
Struct stream in slots (see `timeline`): [B,F,4,72]; M = 4 tokens per latent, or 1 that packs all four slots.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dualforce_model.configs.shape import ModelConfig, TowerConfig
from dualforce_model.model.block import Block, KeyValue
from dualforce_model.model.bridge import Bridge
from dualforce_model.model.conditioning import Audio, NoiseLevel, Text
from dualforce_model.model.exchange import HERE, Exchange
from dualforce_model.model.norms import modulated
from dualforce_model.model.rotary import Phase
from dualforce_model.timeline import STRIDE


class Head(nn.Module):
    """The way out, steered by the noise level like the blocks, frame by frame. Its projection starts at zero."""

    def __init__(self, width: int, outputs: int, eps: float):
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, outputs)
        self.eps = eps

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """[B,F,N,D] and the noise level's embedding [B,F,D] to [B,F,N,outputs]."""
        shift, scale = (self.modulation.float() + level.unsqueeze(-2)).unsqueeze(-2).unbind(2)
        return self.out(modulated(x, shift, scale, self.eps))


class Tower(nn.Module):
    """Conditioning, blocks and head of one tower."""

    def __init__(self, config: ModelConfig, size: TowerConfig, inputs: int, outputs: int):
        super().__init__()
        self.embed = nn.Linear(inputs, size.width)
        self.noise = NoiseLevel(size.width)
        self.text = Text(config.text_dim, size.width)
        self.audio = Audio(config.audio_dim, size.width, config.norm_eps) if size.audio_layers else None
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, size.ffn, i < size.audio_layers, config.norm_eps, config.window)
            for i in range(size.layers)
        )
        self.head = Head(size.width, outputs, config.norm_eps)

    def layers(self) -> list[Block]:
        """The blocks, in order."""
        return [cast("Block", block) for block in self.blocks]

    def silent(self) -> list[nn.Linear]:
        """All that starts at zero: modulations (with their gates), condition outputs, the head."""
        silent = [self.noise.modulation, self.head.out]
        for block in self.layers():
            silent.append(block.text.out)
            if block.hears_audio:
                silent.append(block.audio.out)
        return silent


class VideoTower(Tower):
    """Latents to patches and back. The reference picture is one more frame, clean, seen by all and seeing none."""

    exchange: Exchange = HERE

    def __init__(self, config: ModelConfig):
        area = config.patch**2
        super().__init__(config, config.video, config.video_inputs * area, config.latent_channels * area)
        self.patch, self.mask_channels = config.patch, config.mask_channels
        self.null_reference = nn.Parameter(torch.zeros(config.video.width))

    def patches(self, latents: Tensor) -> Tensor:
        """[B,F,channels,H,W] to [B,F,N,channels·p·p]."""
        H, W, p = *latents.shape[-2:], self.patch
        if H % p or W % p:
            raise ValueError(f"a latent of {H}x{W} does not divide into patches of {p}")
        cells = latents.reshape(*latents.shape[:3], H // p, p, W // p, p)
        return cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def tokens(self, latents: Tensor, reference: Tensor | None) -> Tensor:
        """Noisy latents [B,C,F,H,W] to tokens [B,F,n,D] of this process; mask channels 0, condition channels the reference."""
        noisy = latents.transpose(1, 2)
        B, F, _, H, W = noisy.shape
        mask = noisy.new_zeros(B, F, self.mask_channels, H, W)
        condition = torch.zeros_like(noisy) if reference is None else reference[:, None].expand_as(noisy)
        return self.embed(self.exchange.part(self.patches(torch.cat([noisy, mask, condition], 2)), 2))

    def reference_tokens(self, reference: Tensor | None, drop: Tensor | None, batch: int, tokens: int) -> Tensor:
        """The picture [B,C,H,W] as a clean block [B,N,D]: mask channels 1, condition channels the latent itself."""
        null = self.null_reference.expand(batch, tokens // self.exchange.size, -1)
        if reference is None:
            return null
        mask = reference.new_ones(batch, self.mask_channels, *reference.shape[-2:])
        patches = self.patches(torch.cat([reference, mask, reference], 1)[:, None])[:, 0]
        block = self.embed(self.exchange.part(patches, 1))
        return block if drop is None else torch.where(drop[:, None, None], null.to(block.dtype), block)

    def unmoved(self, block: Tensor) -> Tensor:
        """The modulation [B,1,6,D] of the reference picture [B,N,D]: it has no noise."""
        return self.noise(block.new_zeros(block.shape[0], 1, dtype=torch.float32))[1]

    def sinks(
        self, block: Tensor, rest: Phase, bridges: dict[int, Bridge]
    ) -> tuple[list[KeyValue], dict[int, KeyValue | None]]:
        """Run the reference block [B,N,D] through the tower on its own.

        Returns its keys and values per block, and per bridged layer those that the struct tower sees. The picture sees
        neither frames nor conditions, so this holds for a whole stream: the permanent sink of the cache.
        """
        modulation = self.unmoved(block)
        own: list[KeyValue] = []
        across: dict[int, KeyValue | None] = {}
        for i, layer in enumerate(self.layers()):
            if i in bridges:
                across[i] = bridges[i].reference(block)
            block, sink = layer.reference(block, modulation, rest, i + 1 == len(self.blocks))
            own.append(sink)
        return own, across

    def velocity(self, x: Tensor, level: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [B,F,n,D] of this process to the velocity [B,C,F,H,W] of all in fp32."""
        p = self.patch
        patches = self.exchange.whole(self.head(x, level).float(), 2)
        cells = patches.reshape(*x.shape[:2], *grid, p, p, -1)  # B,F,h,w,p,p,C
        return cells.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


class StructTower(Tower):
    """72 numbers per raw frame to tokens and back, by one linear layer each way.

    Nothing normalises the noisy vector on its way in: that would erase the scale which the velocity needs.
    """

    def __init__(self, config: ModelConfig):
        assert config.struct is not None
        super().__init__(config, config.struct, config.struct_inputs, config.struct_inputs)
        self.per_latent, self.dim = config.struct_tokens, config.struct_dim
        self.flame: nn.Sequential | None = None
        if config.flame_dim:
            hidden = 2 * config.flame_dim
            self.flame = nn.Sequential(
                nn.Linear(config.struct_dim, hidden), nn.GELU(), nn.Linear(hidden, config.flame_dim)
            )

    def tokens(self, struct: Tensor, exists: Tensor) -> Tensor:
        """Slots [B,F,4,72], those that exist [B,F,4], to tokens [B,F,M,D]; what empty slots hold is ignored."""
        struct = struct.masked_fill(~exists[..., None], 0.0)
        return self.embed(struct.reshape(*struct.shape[:2], self.per_latent, -1))

    def velocity(self, x: Tensor, level: Tensor) -> Tensor:
        """Tokens [B,F,M,D] to the velocity of the slots [B,F,4,72] in fp32."""
        return self.head(x, level).float().reshape(*x.shape[:2], STRIDE, self.dim)

    def read_flame(self, struct: Tensor) -> Tensor | None:
        """FLAME parameters [...,P] that clean struct numbers [...,72] imply: the two describe one face."""
        if self.flame is None:
            return None
        return self.flame(struct.to(self.embed.weight.dtype)).float()
