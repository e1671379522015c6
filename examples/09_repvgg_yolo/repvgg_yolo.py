"""A small YOLO whose backbone is RepVGG blocks: 3x3, 1x1 and, where the shape stays, an identity
branch in training."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

# Channels and stride of each block; 96x96 pixels become 12x12 at block 7 and 6x6 at block 10.
BLOCKS = (
    (32, 2), (48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (96, 1), (128, 2), (128, 1),
    (128, 1),
)  # fmt: skip
EPS = 1e-5  # of BatchNorm, as PyTorch and RepVGG have it; ultralytics takes 1e-3
CONFIG = {
    "nc": 10,
    "reg_max": 8,  # bins of 8 and 16 pixels: enough for digits of 32
    "activation": "torch.nn.ReLU()",
    "backbone": [[-1, 1, "Conv", [channels, 3, stride]] for channels, stride in BLOCKS],
    "head": [[[7, 10], 1, "Detect", ["nc"]]],
}


def repvgg_yolo() -> Any:
    """A model of ultralytics with `RepConv` in the place of each convolution of the backbone."""
    from ultralytics.nn.modules import RepConv
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(copy.deepcopy(CONFIG), verbose=False)
    inputs = [3, *(channels for channels, _ in BLOCKS)]
    for at, (channels, stride) in enumerate(BLOCKS):
        block = RepConv(inputs[at], channels, 3, stride, act=nn.ReLU(), bn=True)
        plain = model.model[at]
        # how ultralytics runs a layer
        block.i, block.f, block.type, block.np = plain.i, plain.f, "RepConv", plain.np
        model.model[at] = block
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = EPS
    return model
