"""The FLAME encoders of DECA and EMOCA: a ResNet-50 without its classifier, then two linear layers.

Feng et al. 2021, "DECA"; Danecek et al. 2022, "EMOCA". 8.2 GFLOP a picture of 224 x 224 and encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualforce_model.features.networks.checkpoint import load_exactly, read_checkpoint
from dualforce_model.weights import WeightsError

SIZE = 224
# The code of E_flame, in its order; EMOCA's E_expression gives another expression, and in some models jaw or pose.
CODE = {"shape": 100, "texture": 50, "expression": 50, "pose": 6, "camera": 3, "light": 27}
EXPRESSION_CODES = {50: (), 53: ("jaw",), 56: ("pose", "jaw")}


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolutions and their batch norms, around a shortcut."""

    def __init__(self, wide: int, narrow: int, stride: int):
        super().__init__()
        out = 4 * narrow
        self.conv1, self.bn1 = nn.Conv2d(wide, narrow, 1, bias=False), nn.BatchNorm2d(narrow)
        self.conv2, self.bn2 = nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False), nn.BatchNorm2d(narrow)
        self.conv3, self.bn3 = nn.Conv2d(narrow, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1 or wide != out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """[B,3,224,224] to [B,2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        wide = 64
        for index, (depth, narrow) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            blocks = []
            for block in range(depth):
                blocks.append(Bottleneck(wide, narrow, 2 if index and not block else 1))
                wide = 4 * narrow
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = cast("nn.Module", layer)(x)
        return F.avg_pool2d(x, 7).flatten(1)


class Encoder(nn.Module):
    """Pictures [B,3,224,224] in 0..1 to a code [B,outputs]."""

    def __init__(self, outputs: int = sum(CODE.values())):
        super().__init__()
        self.encoder = ResNet50()
        self.layers = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, outputs))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(self.encoder(pictures))  # type: ignore[no-any-return]


class Coarse(nn.Module):
    """DECA's encoder and, for EMOCA, its expression encoder. One call gives the parameters of `forward`."""

    def __init__(self, flame: Encoder, expression: Encoder | None):
        super().__init__()
        self.flame, self.expression = flame, expression

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """`shape` [B,100], `expression` [B,50], `pose` and `jaw` [B,3] (axis-angle), `camera` [B,3] (scale, tx, ty)."""
        code = dict(zip(CODE, self.flame(pictures).split(list(CODE.values()), 1), strict=True))
        pose, jaw = code["pose"].split(3, 1)
        out = {
            "shape": code["shape"],
            "expression": code["expression"],
            "pose": pose,
            "jaw": jaw,
            "camera": code["camera"],
        }
        if self.expression is not None:
            own = self.expression(pictures)
            out["expression"] = own[:, :50]
            for place, name in enumerate(EXPRESSION_CODES[own.shape[1]]):
                out[name] = own[:, 50 + 3 * place : 53 + 3 * place]
        return out


def _encoder(tensors: dict[str, Any], path: Path) -> Encoder:
    last = tensors.get("layers.2.weight")
    if last is None:
        raise WeightsError(f"{path} holds no encoder of DECA or EMOCA: layers.2.weight is missing")
    with torch.device("meta"):
        network = Encoder(len(last))
    return load_exactly(network.to_empty(device="cpu"), tensors, path)  # type: ignore[return-value]


def _below(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load(path: Path) -> Coarse:
    """The encoders of DECA's file (`E_flame`) or of EMOCA's Lightning checkpoint. Raises WeightsError."""
    content = read_checkpoint(path)
    if isinstance(content.get("E_flame"), dict):
        return Coarse(_encoder(content["E_flame"], path), None).eval()
    tensors = content.get("state_dict")
    if not isinstance(tensors, dict):
        raise WeightsError(f"{path} is neither DECA's file (key E_flame) nor EMOCA's checkpoint (key state_dict)")
    flame, expression = _below(tensors, "deca.E_flame."), _below(tensors, "deca.E_expression.")
    network = Coarse(_encoder(flame, path), _encoder(expression, path))
    outputs = network.expression.layers[2].out_features  # type: ignore[union-attr]
    if outputs not in EXPRESSION_CODES:
        raise WeightsError(
            f"{path}: the expression encoder gives {outputs} numbers, known are {sorted(EXPRESSION_CODES)}"
        )
    return network.eval()
