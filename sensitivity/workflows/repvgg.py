"""A small RepVGG (Ding et al., 2021): three branches per block in training, one plain 3x3
convolution afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensitivity.simulators.torch.lanes import kernel_threads

BATCH = 32


class Block(nn.Module):
    """relu(bn(conv3x3(x)) + bn(conv1x1(x)) + bn(x)). The last term is left out if the shape
    changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.identity = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm3(self.conv3(x)) + self.norm1(self.conv1(x))
        return functional.relu(y if self.identity is None else y + self.identity(x))

    def plain(self) -> nn.Conv2d:
        """Return the convolution that gives the same values in eval mode, before the activation."""
        branches = [
            (self.conv3.weight, self.norm3),
            (functional.pad(self.conv1.weight, (1, 1, 1, 1)), self.norm1),
        ]
        if self.identity is not None:
            branches.append((nn.init.dirac_(torch.empty_like(self.conv3.weight)), self.identity))
        folded = [_folded(weight, norm) for weight, norm in branches]
        conv = nn.Conv2d(self.conv3.in_channels, self.conv3.out_channels, 3, self.conv3.stride, 1)  # type: ignore[arg-type]
        conv.weight.data = torch.stack([weight for weight, _ in folded]).sum(0)
        conv.bias = nn.Parameter(torch.stack([bias for _, bias in folded]).sum(0))
        return conv


def _folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a convolution with the BatchNorm after it folded in."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (weight * factor[:, None, None, None]).detach(), (
        norm.bias - norm.running_mean * factor
    ).detach()


class RepVGG(nn.Module):
    """A network from images float32[n, 1, h, w] to scores [n, classes].

    width: channels of the first stage. Each further stage halves the image and doubles the
        channels.
    depths: number of blocks in each stage.
    """

    def __init__(self, width: int, depths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        outputs = [width * 2**stage for stage, depth in enumerate(depths) for _ in range(depth)]
        strides = [
            2 if stage and not at else 1
            for stage, depth in enumerate(depths)
            for at in range(depth)
        ]
        inputs = [width, *outputs[:-1]]
        blocks = [Block(*shape) for shape in zip(inputs, outputs, strides, strict=True)]
        self.blocks = nn.Sequential(Block(1, width), *blocks)
        self.head = nn.Linear(outputs[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return scores

    def plain(self) -> PlainVGG:
        """Return the same function in eval mode, without branches and BatchNorm."""
        return PlainVGG(
            [block.plain() for block in self.blocks if isinstance(block, Block)], self.head
        )


class PlainVGG(nn.Module):
    """Convolutions `conv1`, `conv2`, ..., each with a ReLU, followed by the linear layer `head`."""

    def __init__(self, convs: list[nn.Conv2d], head: nn.Linear) -> None:
        super().__init__()
        self.depth = len(convs)
        for number, conv in enumerate(convs, 1):
            self.add_module(f"conv{number}", conv)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.depth + 1):
            x = functional.relu(self.get_submodule(f"conv{number}")(x))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def train(
    model: RepVGG, x: Tensor, y: Tensor, *, epochs: int, rate: float, decay: float, seed: int
) -> None:
    """Train with SGD, momentum and a cosine schedule, and leave the model in eval mode.

    x, y: samples and their class indices.
    """
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=order)[: len(x) // BATCH * BATCH].reshape(
            -1, BATCH
        ):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval()


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Use one thread and a fixed seed inside the `with`, so that a machine always computes the same
    bits.

    One thread is also the fastest, since these images are too small to share out.
    """
    with torch.random.fork_rng(devices=[]), kernel_threads(1):
        torch.manual_seed(seed)
        yield
