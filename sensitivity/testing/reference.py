"""The network that the conformance suite of sources quantizes with each toolkit, and its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LAYERS = ("stem", "block.conv1", "block.conv10", "down", "wide", "head")


class _Block(nn.Module):
    """A residual block whose addition and first convolution read the same tensor.

    The name `conv1` is a prefix of `conv10`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.conv10 = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv10(torch.relu(self.conv1(x)))  # type: ignore[no-any-return]


class Reference(nn.Module):
    """A network of six weighted layers (`LAYERS`) with a residual and ReLUs, without BatchNorm.

    Maps float32[n, 3, 12, 12] to float32[n, 5].
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block = _Block()
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.relu(self.stem(x)))
        x = self.wide(torch.relu(self.down(x)))
        return self.head(torch.relu(x).mean((2, 3)))  # type: ignore[no-any-return]


def reference_network() -> nn.Module:
    """Return the network in eval mode, with the same weights at each call.

    Inputs of layers differ in range, so that the layers differ in sensitivity by more than
    rounding.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Reference().eval()
        for layer in LAYERS:
            nn.init.kaiming_normal_(model.get_submodule(layer).weight)  # type: ignore[arg-type]
    with torch.no_grad():
        model.stem.weight[0] *= 20  # this channel sets the range that all share,
        model.block.conv10.weight *= 0.3
        model.block.conv10.weight[:, 0] *= 0.02  # stays by itself,
        # and hardly matters to `down`, which therefore suffers most
        model.down.weight[:, 0] *= 0.005
    return model


def reference_inputs(samples: int = 8, seed: int = 0) -> Tensor:
    """Return float32[samples, 3, 12, 12], the same at each call.

    seed: 0 gives the inputs that sources are calibrated on.
    """
    return torch.randn(samples, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
