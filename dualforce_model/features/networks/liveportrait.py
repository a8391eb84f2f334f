"""LivePortrait's motion extractor: ConvNeXt-V2 tiny, global mean, LayerNorm, seven linear heads (28.1 M parameters).

Guo et al. 2024, "LivePortrait"; Woo et al. 2023, "ConvNeXt V2". 11.7 GFLOP a picture of 256 x 256.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualforce_model.features.networks.checkpoint import load_exactly, read_checkpoint

FILE = "liveportrait/base_models/motion_extractor.pth"
SIZE = 256
BINS = 66
HEADS = {"kp": 63, "scale": 1, "pitch": BINS, "yaw": BINS, "roll": BINS, "t": 3, "exp": 63}


class GlobalResponseNorm(nn.Module):
    """ConvNeXt V2's, on [B,H,W,C]."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.float().square().sum((1, 2), keepdim=True).sqrt()
        share = (energy / (energy.mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return torch.addcmul(self.beta, self.gamma * share + 1, x)  # gamma * (x * share) + beta + x


class Block(nn.Module):
    """[B,C,H,W] to the same."""

    def __init__(self, width: int):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.grn = GlobalResponseNorm(4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y))))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B,C,H,W]."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextV2(nn.Module):
    """The trunk with LivePortrait's heads."""

    def __init__(self, depths: tuple[int, ...] = (3, 3, 9, 3), widths: tuple[int, ...] = (96, 192, 384, 768)):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), ChannelNorm(widths[0]))
        downs = [nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in pairwise(widths)]
        self.downsample_layers = nn.ModuleList([stem, *downs])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(w) for _ in range(n))) for n, w in zip(depths, widths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        for name, size in HEADS.items():
            setattr(self, f"fc_{name}", nn.Linear(widths[-1], size))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        x = self.norm(x.mean((2, 3)))
        return {name: getattr(self, f"fc_{name}")(x) for name in HEADS}


class MotionExtractor(nn.Module):
    """Pictures [B,3,256,256] in 0..1 to motion; see `forward` and `angles`."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = ConvNextV2()

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """pitch, yaw, roll [B,66] logits; t [B,3]; exp and kp [B,63]; scale [B,1]."""
        return self.detector(pictures)  # type: ignore[no-any-return]


def degrees(logits: Tensor) -> Tensor:
    """Angles [B] in degrees: the expectation of the bin index x 3 - 97.5."""
    bins = torch.arange(BINS, device=logits.device, dtype=torch.float32)
    return (logits.float().softmax(-1) * bins).sum(-1) * 3 - 97.5


def rotation(pitch: Tensor, yaw: Tensor, roll: Tensor) -> Tensor:
    """LivePortrait's R = (Rz Ry Rx)^T [B,3,3] from angles [B] in degrees; it multiplies row vectors from the right."""
    (x, y, z), zero, one = (
        (torch.deg2rad(a.float()) for a in (pitch, yaw, roll)),
        torch.zeros_like(pitch),
        torch.ones_like(pitch),
    )

    def matrix(*rows: list[Tensor]) -> Tensor:
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    rx = matrix([one, zero, zero], [zero, x.cos(), -x.sin()], [zero, x.sin(), x.cos()])
    ry = matrix([y.cos(), zero, y.sin()], [zero, one, zero], [-y.sin(), zero, y.cos()])
    rz = matrix([z.cos(), -z.sin(), zero], [z.sin(), z.cos(), zero], [zero, zero, one])
    return (rz @ ry @ rx).mT


def load(folder: Path) -> MotionExtractor:
    """The network from `folder`, in the layout of the published repository. Raises WeightsError."""
    with torch.device("meta"):
        network = MotionExtractor()
    path = folder / FILE
    return load_exactly(network.to_empty(device="cpu"), read_checkpoint(path), path)  # type: ignore[return-value]
