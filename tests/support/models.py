"""Small torch models for the tests, quantized by ModelOpt with max calibration."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Chain(nn.Module):
    """Ten small convolutions in a row, so that `conv1` is a prefix of `conv10`, and a linear
    layer."""

    def __init__(self, length: int = 10, channels: int = 4) -> None:
        super().__init__()
        for index in range(1, length + 1):
            setattr(
                self,
                f"conv{index}",
                nn.Conv2d(3 if index == 1 else channels, channels, 3, padding=1),
            )
        self.length = length
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in range(1, self.length + 1):
            x = self.act(getattr(self, f"conv{index}")(x))
        return self.fc(x.mean((2, 3)))


class Branches(nn.Module):
    """BatchNorm, an in-place activation, a residual, a concat, a module used twice, and two outputs
    in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.1, inplace=True)
        )
        self.shared = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.left = nn.Conv2d(8, 4, 1)
        self.right = nn.Conv2d(8, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.box = nn.Conv2d(8, 2, 1)
        self.classes = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        y = self.shared(torch.relu(self.shared(x)))
        y += x
        z = torch.cat([self.left(y), self.right(y).sigmoid_()], 1)
        return {"box": self.box(self.up(z) * 0.5), "classes": self.classes(z.mean((2, 3)))}


class Kinds(nn.Module):
    """Convolutions of all kinds, and linear layers of images and of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.grouped = nn.Conv2d(8, 12, (1, 3), padding=(0, 1), groups=4, bias=False)
        self.up = nn.ConvTranspose2d(12, 6, 2, 2)
        self.mixed = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.grouped(torch.relu(self.depthwise(x))))
        x = self.mixed(self.up(x).movedim(1, -1)).mean((1, 2))
        return self.last(self.again(self.again(x)))


def batch(samples: int = 4, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model in eval mode with the same random weights, and BatchNorm statistics, at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().eval()
        for module in model.modules():
            # torch's own start fades to nothing in ten layers
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=0.2)
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def quantized(model: nn.Module, *inputs: Any, skip: tuple[str, ...] = ()) -> nn.Module:
    """A copy with INT8 quantizers, weights per channel, calibrated on `inputs`; patterns in `skip`
    are disabled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
        transposed = {"parent_class": "nn.ConvTranspose2d", "cfg": {"num_bits": 8, "axis": 1}}
        config["quant_cfg"].append({"quantizer_name": "*weight_quantizer", **transposed})
        result = mtq.quantize(copy.deepcopy(model), config, lambda model: model(*inputs))
        for pattern in skip:
            mtq.disable_quantizer(result, pattern)
    return result


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) / int(x.shape[0])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return -y if y.sum() > 0 else y


class WritesIntoViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y[:, :2] *= 3
        y[:, 1:3].relu_()
        return y
