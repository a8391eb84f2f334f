"""Wan 2.1's video VAE as a stream: chunks of one length with the convolutions' own memory carried between them.

The modules and their weights are diffusers' `AutoencoderKLWan`; only the order of execution is ours. diffusers runs 4
frames (encoder) or one latent (decoder) at a time, copies each layer's input several times and grows its result by
concatenation. Here every causal convolution reads its last two input frames and the chunk from one tensor, a chunk may
be any number of latents, and all shapes are fixed after the first chunk, so that both passes compile once.

Causality does the rest: latents at the end of a chunk do not change those before, so a last, shorter chunk is filled up
with repeated frames and what they give is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualforce_model.features.networks.complete import require_complete
from dualforce_model.timeline import SPATIAL, STRIDE
from dualforce_model.weights import WeightsError

FOLDER = "vae"
MEMORY = 2  # frames that a causal convolution of length three remembers

Memory = list[Tensor]


class _Tape:
    """The memories of one pass, in the order in which its layers ask: `old` ones are read, `new` ones written."""

    def __init__(self, old: Memory | None):
        self.first = old is None
        self._old = iter(old or ())
        self.new: Memory = []

    def remember(self, x: Tensor, frames: int) -> Tensor:
        """Put the `frames` that went before in front of x [B,C,T,H,W]; before the clip there are zeros."""
        past = x.new_zeros(*x.shape[:2], frames, *x.shape[3:]) if self.first else next(self._old)
        whole = torch.cat([past, x], 2)
        self.new.append(_own(whole[:, :, -frames:]))
        return whole

    def skip(self, x: Tensor, frames: int, keep: bool) -> None:
        """The first chunk passes a layer by, and leaves its last `frames` behind or (keep False) as many zeros."""
        past = x[:, :, -frames:] if keep else torch.zeros_like(x[:, :, :1]).repeat(1, 1, frames, 1, 1)
        self.new.append(_own(past))


def _own(x: Tensor) -> Tensor:
    """A copy that does not keep the whole chunk alive."""
    return x.clone(memory_format=torch.channels_last_3d)


def _conv(layer: nn.Conv3d, x: Tensor, tape: _Tape) -> Tensor:
    """A causal convolution; the padding in height and width is left to the kernel instead of a padded copy."""
    if layer.kernel_size[0] > 1:
        x = tape.remember(x, MEMORY)
    if hasattr(layer, "paired_weight") and x.shape[2] % 2 == 0:
        return _paired(layer, x)
    side = layer.kernel_size[1] // 2
    return F.conv3d(x, layer.weight, layer.bias, layer.stride, (0, side, side))


def _pair(layer: nn.Conv3d) -> None:
    """Add the weights of the same convolution over pairs of frames: twice the channels, two steps in time.

    For the first layer alone: cuDNN runs 3 channels to 96 by its slowest route (16 frames of 512 px on one H200: 6.6 ms
    against 3.3 by pairs padded to 8 channels). For 96 to 96 channels pairs are quicker, too (5.5 ms against 8.3), but
    bringing the frames into that order and back costs more than it wins.
    """
    out, into = layer.weight.shape[:2]
    room = -(-into // 4) * 4
    weight = layer.weight.new_zeros(2, out, 2, room, 2, *layer.kernel_size[1:])
    for frame in range(2):
        for step in range(3):
            pair, place = divmod(frame + step, 2)
            weight[frame, :, place, :into, pair] = layer.weight[:, :, step]
    weight = weight.view(2 * out, 2 * room, 2, *layer.kernel_size[1:])
    layer.register_buffer("paired_weight", weight.contiguous(memory_format=torch.channels_last_3d), persistent=False)
    layer.register_buffer("paired_bias", layer.bias.repeat(2), persistent=False)  # type: ignore[union-attr,operator]


def _paired(layer: Any, x: Tensor) -> Tensor:
    """The convolution of `layer` over x [B,C,T+2,H,W], T even, by pairs of frames."""
    room = layer.paired_weight.shape[1] // 2
    x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, room - x.shape[1])) if room > x.shape[1] else x
    x = x.unflatten(2, (-1, 2)).permute(0, 3, 1, 2, 4, 5).flatten(1, 2).contiguous(memory_format=torch.channels_last_3d)
    y = F.conv3d(x, layer.paired_weight, layer.paired_bias, padding=(0, 1, 1))
    return y.unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)


def _norm(layer: Any, x: Tensor) -> Tensor:
    """Root mean square norm over the channels, in float32."""
    return F.normalize(x.float(), dim=1).to(x.dtype) * layer.scale * layer.gamma


def _residual(block: Any, x: Tensor, tape: _Tape) -> Tensor:
    short = x if isinstance(block.conv_shortcut, nn.Identity) else _conv(block.conv_shortcut, x, tape)
    x = _conv(block.conv1, F.silu(_norm(block.norm1, x)), tape)
    return _conv(block.conv2, F.silu(_norm(block.norm2, x)), tape) + short


def _pictures(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of single pictures [B*T,C,H,W] on [B,C,T,H,W]."""
    b, _, t = x.shape[:3]
    y = layer(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (b, t)).transpose(1, 2)


def _attend(block: Any, x: Tensor) -> Tensor:
    """One head over the cells of each picture."""

    def picture(y: Tensor) -> Tensor:
        h, w = y.shape[2:]
        q, k, v = block.to_qkv(_norm(block.norm, y)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, -1)
        out = F.scaled_dot_product_attention(q, k, v)  # one head, as an axis: without it, only the slow route is taken
        return block.proj(out.squeeze(1).transpose(1, 2).unflatten(2, (h, w)))

    return x + _pictures(picture, x)


def _middle(block: Any, x: Tensor, tape: _Tape) -> Tensor:
    x = _residual(block.resnets[0], x, tape)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(resnet, _attend(attention, x), tape)
    return x


def _shrink(layer: Any, x: Tensor, tape: _Tape) -> Tensor:
    x = _pictures(layer.resample, x)
    if layer.mode == "downsample3d":
        if tape.first:  # frame 0 has no neighbour to be averaged with
            tape.skip(x, 1, keep=True)
        else:
            x = F.conv3d(tape.remember(x, 1), layer.time_conv.weight, layer.time_conv.bias, layer.time_conv.stride)
    return x


def _grow(layer: Any, x: Tensor, tape: _Tape) -> Tensor:
    if layer.mode == "upsample3d":
        if tape.first:  # latent 0 is one frame
            tape.skip(x, MEMORY, keep=False)
        else:
            y = _conv(layer.time_conv, x, tape)
            y = y.unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5)  # the halves of the channels are successive frames
            x = y.flatten(2, 3)
    convolve = layer.resample[1]
    return _pictures(lambda y: convolve(F.interpolate(y, scale_factor=2.0, mode="nearest")), x)


def encode_chunk(encoder: Any, quant: nn.Conv3d, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    """Frames [B,3,T,H,W] to moments [B,2C,T/4,h,w] and the next chunk's memory. First: one frame, no memory."""
    tape = _Tape(memory)
    x = _conv(encoder.conv_in, x, tape)
    for layer in encoder.down_blocks:
        if hasattr(layer, "conv1"):
            x = _residual(layer, x, tape)
        else:
            x = _shrink(layer, x, tape) if hasattr(layer, "resample") else _attend(layer, x)
    x = _middle(encoder.mid_block, x, tape)
    x = _conv(encoder.conv_out, F.silu(_norm(encoder.norm_out, x)), tape)
    return _conv(quant, x, tape), tape.new


def decode_chunk(decoder: Any, unquant: nn.Conv3d, z: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    """Latents [B,C,F,h,w] to frames [B,3,4F,H,W] in -1..1 and the memory. First: one latent, one frame."""
    tape = _Tape(memory)
    x = _conv(decoder.conv_in, _conv(unquant, z, tape), tape)
    x = _middle(decoder.mid_block, x, tape)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            x = _residual(resnet, x, tape)
        if block.upsamplers is not None:
            x = _grow(block.upsamplers[0], x, tape)
    x = _conv(decoder.conv_out, F.silu(_norm(decoder.norm_out, x)), tape)
    return x.clamp(-1, 1), tape.new


class WanVae(nn.Module):
    """Normalised latents from pictures and back. Streams are made by `encoder()` and `decoder()`, one per clip.

    `compiled`: fuse the layers between the convolutions (for GPUs; takes 20 s per direction at a size's first chunk).
    `paired`: see `_pair`. Neither changes the result beyond rounding.
    """

    def __init__(self, vae: Any, dtype: torch.dtype, device: torch.device, compiled: bool, paired: bool = False):
        super().__init__()
        config = vae.config
        if config.is_residual or config.patch_size is not None or config.z_dim != 16:
            raise WeightsError(
                "these are not the weights of Wan 2.1's VAE (16 channels): Wan 2.2's has another geometry"
            )
        # nn.Module's own `to`: diffusers' warns of modules to be kept in float32, of which this network has none
        self.vae = nn.Module.to(vae.eval().requires_grad_(False), device, dtype)
        for module in self.vae.modules():
            if isinstance(module, nn.Conv3d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
            elif isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        if paired:
            _pair(self.vae.encoder.conv_in)
        self.dtype, self.device, self.channels = dtype, device, int(config.z_dim)
        shape = (1, self.channels, 1, 1, 1)
        self.mean = torch.tensor(config.latents_mean, device=device).view(shape)
        self.std = torch.tensor(config.latents_std, device=device).view(shape)
        # One compiled function per direction. A clip's first chunk is one frame, which is not worth another minute.
        self._steady = {
            function: torch.compile(function, dynamic=False, fullgraph=True) if compiled else function
            for function in (encode_chunk, decode_chunk)
        }

    def _run(self, function: Callable, *parts: Any) -> tuple[Tensor, Memory]:
        """One chunk. cuDNN tries its kernels at the first call of a shape, because its guess is far off for some."""
        chosen = function if parts[-1] is None else self._steady[function]
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, self.device.type == "cuda"
        try:
            return chosen(*parts)  # type: ignore[no-any-return]
        finally:
            torch.backends.cudnn.benchmark = before

    def encode_chunk(self, frames: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Frames uint8 [B,3,T,H,W] to normalised latents float32 [B,16,F,h,w] (the posterior's mean) and the memory."""
        frames = frames.to(self.device, non_blocking=True)
        x = (frames.to(self.dtype) / 127.5 - 1).contiguous(memory_format=torch.channels_last_3d)
        moments, memory = self._run(encode_chunk, self.vae.encoder, self.vae.quant_conv, x, memory)
        return (moments[:, : self.channels].float() - self.mean) / self.std, memory

    def decode_chunk(self, latents: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Normalised latents [B,16,F,h,w] to frames uint8 [B,3,T,H,W] and the memory."""
        z = (latents.to(self.device).float() * self.std + self.mean).to(self.dtype)
        z = z.contiguous(memory_format=torch.channels_last_3d)
        x, memory = self._run(decode_chunk, self.vae.decoder, self.vae.post_quant_conv, z, memory)
        return ((x.float() + 1) * 127.5).round().to(torch.uint8), memory


class EncoderStream:
    """Push frames, get latents; the last chunk comes with `finish`. `latents` whole latents make a chunk."""

    def __init__(self, vae: WanVae, latents: int):
        self.vae, self.frames = vae, STRIDE * latents
        self._memory: Memory | None = None
        self._waiting: list[Tensor] = []

    def push(self, frame: Tensor) -> Tensor | None:
        """One picture uint8 [B,3,H,W]; the latents [B,16,F,h,w] of a chunk when it is complete."""
        if frame.shape[-1] % SPATIAL or frame.shape[-2] % SPATIAL:
            raise ValueError(f"sides must be multiples of {SPATIAL}, got {frame.shape[-1]} x {frame.shape[-2]}")
        self._waiting.append(frame)
        return self._chunk() if len(self._waiting) == (1 if self._memory is None else self.frames) else None

    def finish(self) -> Tensor | None:
        """The latents of the whole blocks of four frames that wait; up to three last frames fill no latent."""
        whole = len(self._waiting) // STRIDE
        if not whole:
            return None
        del self._waiting[whole * STRIDE :]
        self._waiting += [self._waiting[-1]] * (self.frames - len(self._waiting))
        latents = self._chunk()
        return latents[:, :, :whole]

    def _chunk(self) -> Tensor:
        first = self._waiting[0]
        if self.vae.device.type == "cuda" and first.device.type == "cpu":
            # pinned: travels while the GPU is at work on the chunk before; by numpy: torch would wake all cores to copy
            shape = (*first.shape[:2], len(self._waiting), *first.shape[2:])
            frames = torch.empty(shape, dtype=first.dtype, pin_memory=True)
            np.stack([frame.numpy() for frame in self._waiting], 2, out=frames.numpy())
        else:
            frames = torch.stack(self._waiting, 2)
        latents, self._memory = self.vae.encode_chunk(frames, self._memory)
        self._waiting.clear()
        return latents


class DecoderStream:
    """Push latents, get frames. With `latents` = 1 every latent gives its four frames at once (generation)."""

    def __init__(self, vae: WanVae, latents: int):
        self.vae, self.latents = vae, latents
        self._memory: Memory | None = None
        self._waiting: list[Tensor] = []

    def push(self, latent: Tensor) -> Tensor | None:
        """One latent [B,16,h,w]; the frames uint8 [B,3,T,H,W] of a chunk when it is complete."""
        self._waiting.append(latent)
        return self._chunk() if len(self._waiting) == (1 if self._memory is None else self.latents) else None

    def finish(self) -> Tensor | None:
        """The frames of the latents that wait."""
        whole = len(self._waiting)
        if not whole:
            return None
        self._waiting += [self._waiting[-1]] * (self.latents - whole)
        return self._chunk()[:, :, : STRIDE * whole]

    def _chunk(self) -> Tensor:
        frames, self._memory = self.vae.decode_chunk(torch.stack(self._waiting, 2), self._memory)
        self._waiting.clear()
        return frames


def load(folder: Path, dtype: torch.dtype, device: torch.device, compiled: bool) -> WanVae:
    """The VAE from `folder`/vae, as diffusers saves it. Raises WeightsError."""
    from diffusers import AutoencoderKLWan

    try:
        vae, report = AutoencoderKLWan.from_pretrained(
            folder / FOLDER, torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{folder / FOLDER} holds no AutoencoderKLWan: {error}") from error
    require_complete(report, folder / FOLDER, "Wan's VAE")
    return WanVae(vae, dtype, device, compiled, paired=compiled)
