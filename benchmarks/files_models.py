"""The networks of `files.py`. Their weights are random, since times do not depend on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
EFFICIENTNET_B0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, blocks and stride of each stage, and in the second table its kernel too, as
in Sandler et al. 2018 and Tan and Le 2019."""


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, act: Callable[[], nn.Module]
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, momentum=None),
        act(),
    )


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.act = nn.Conv2d(channels, squeezed, 1), nn.SiLU()
        self.expand, self.gate = nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return x * weight


class InvertedResidual(nn.Module):
    """An inverted residual block.

    squeezed: channels between the two layers of its squeeze-and-excitation; 0 for none.
    """

    def __init__(
        self, shape: tuple[int, int, int, int, int], act: Callable[[], nn.Module], squeezed: int = 0
    ) -> None:
        super().__init__()
        inputs, outputs, expansion, stride, kernel = shape
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(convolution(inputs, wide, 1, 1, 1, act))
        layers.append(convolution(wide, wide, kernel, stride, wide, act))
        if squeezed:
            layers.append(SqueezeExcite(wide, squeezed))
        layers.append(convolution(wide, outputs, 1, 1, 1, nn.Identity))
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class Classifier(nn.Module):
    """A classifier.

    blocks: the layers between the stem and the last convolution.
    """

    def __init__(self, blocks: list[nn.Module], last: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 3, 2, 1, act)
        self.blocks = nn.Sequential(*blocks)
        self.last = convolution(last, 1280, 1, 1, 1, act)
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class MobileNetV2(Classifier):
    def __init__(self) -> None:
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, outputs, count, stride in MOBILENET_V2:
            for at in range(count):
                shape = (channels, outputs, expansion, 1 if at else stride, 3)
                blocks.append(InvertedResidual(shape, nn.ReLU6))
                channels = outputs
        super().__init__(blocks, channels, nn.ReLU6)


class EfficientNet(Classifier):
    def __init__(self) -> None:
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, outputs, count, stride, kernel in EFFICIENTNET_B0:
            for at in range(count):
                shape = (channels, outputs, expansion, 1 if at else stride, kernel)
                blocks.append(InvertedResidual(shape, nn.SiLU, max(1, channels // 4)))
                channels = outputs
        super().__init__(blocks, channels, nn.SiLU)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(batch, length, width)
        return self.out(y)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViT(nn.Module):
    def __init__(self, size: int = 96, patch: int = 16, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.place = nn.Parameter(torch.randn(1, (size // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(Encoder(width, 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))  # type: ignore[no-any-return]
