"""A task whose model has channels of very unlike sizes before a depthwise convolution: what a
range per channel mends, and no other one does."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.models import quantized, seeded
from tasks.tiny import images, labelled, top1

from sensitivity import Task


class Uneven(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
        )
        self.point, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.first(x), 0.1)
        x = torch.relu(self.point(torch.relu(self.depthwise(x))))
        return self.fc(x.mean((2, 3)))


def net() -> nn.Module:
    """Sure of its answers, of which each class is as likely."""
    model = seeded(Uneven).eval()
    size = 3.0 ** torch.arange(-6, 2)
    with torch.no_grad():
        model.first.weight *= size.reshape(-1, 1, 1, 1)
        model.first.bias *= size
        model.depthwise.weight /= size.reshape(-1, 1, 1, 1)
        outputs = model(images(200, seed=7))
        sure = 5 / (outputs - outputs.mean(0)).std()
        model.fc.bias -= outputs.mean(0)
        model.fc.weight *= sure
        model.fc.bias *= sure
    return model


def task() -> Task:
    data = {
        split: labelled(120, seed, net())
        for seed, split in enumerate(("calib", "rank", "confirm", "holdout"))
    }
    return Task(quantized(net(), images(8, seed=9)), data, top1, metric="top-1")
