"""Small versions of the kinds of blocks in the models of the examples: those of YOLOv8, and
residual ones."""

from __future__ import annotations

import torch
from torch import nn


class ConvSiLU(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.SiLU(inplace=True))


class Split(nn.Module):
    """One convolution split in two, a residual on the second part, all parts concatenated: YOLOv8's
    C2f."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.cv1, self.cv2 = ConvSiLU(channels, channels), ConvSiLU(channels + half, channels)
        self.inner = nn.Sequential(ConvSiLU(half, half, 3), ConvSiLU(half, half, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class YoloLike(nn.Module):
    """Stem, split, pooling pyramid, nearest resize, concat over scales, and a head whose softmax is
    not on the last axis and that adds positions, which it counts from the size of its input. Output
    [n, 16 + 5, positions]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = ConvSiLU(3, width, 3, 2)
        self.fine = Split(width)
        self.down = ConvSiLU(width, width, 3, 2)
        self.coarse = Split(width)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.spp = ConvSiLU(2 * width, width)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.joined = ConvSiLU(2 * width, width)
        self.box, self.classes = nn.Conv2d(width, 16, 1), nn.Conv2d(width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(self.down(fine))
        coarse = self.spp(torch.cat([coarse, self.pool(coarse)], 1))
        x = self.joined(torch.cat([self.up(coarse), fine], 1))
        box = self.box(x).flatten(2).unflatten(1, (4, 4)).transpose(1, 2).softmax(1).flatten(1, 2)
        positions = torch.arange(x.shape[2] * x.shape[3]) + 0.5
        return torch.cat([box + positions, self.classes(x).flatten(2).sigmoid()], 1)


class Residual(nn.Module):
    """Two residual blocks, the second with a convolution on its shortcut, and a linear layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.first = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )
        strided = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(
            strided, nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(2 * width)
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm2d(2 * width)
        )
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.relu1(self.first(x) + x)
        x = self.relu2(self.second(x) + self.shortcut(x))
        return self.fc(x.mean((2, 3)))


class Transposed(nn.Module):
    """A transposed convolution, and a linear layer on three axes, which torch writes as a
    MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 24, 2, 2)
        self.mixer = nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixer(self.up(self.stem(x).relu()).relu().flatten(2).transpose(1, 2))


class Blocks(nn.Module):
    """Residual and concat blocks with ReLU and SiLU, resized, a pooled head: what runtimes fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left = nn.Conv2d(16, 8, 1)
        self.right = nn.Conv2d(16, 8, 1)
        self.merge = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.second(torch.relu(self.first(x))) + x)
        x = nn.functional.silu(self.depthwise(x))
        small = nn.functional.max_pool2d(x, 2)
        large = nn.functional.interpolate(small, scale_factor=2.0, mode="nearest")
        x = torch.cat([self.left(large), self.right(x)], 1)
        return self.head(nn.functional.silu(self.merge(x)).mean((2, 3)))
