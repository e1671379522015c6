"""A toolkit for quantization, as small as one can be: convolutions and linear layers, INT8, max
ranges."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 127


class Rounder(nn.Module):
    """Fake quantization to -127..127 steps. limit: largest value, [1] or one per channel along axis
    0; NaN before calibration. active: False passes values as they are."""

    def __init__(self, limit: Tensor, *, per_channel: bool) -> None:
        super().__init__()
        self.register_buffer("limit", limit)
        self.per_channel, self.active = per_channel, True

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        scale = self.limit / LEVELS
        scale = scale.reshape(-1, *[1] * (x.ndim - 1)) if self.per_channel else scale
        return (x / scale).round().clamp(-LEVELS, LEVELS) * scale


class ToyConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(
            self.input_rounder(x), self.weight_rounder(self.weight), self.bias
        )


class ToyLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.input_rounder(x), self.weight_rounder(self.weight), self.bias)


KINDS = {nn.Conv2d: ToyConv2d, nn.Linear: ToyLinear}


def quantize(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Quantize all convolutions and linear layers in place, with ranges from one batch."""
    layers = [module for module in model.modules() if type(module) in KINDS]
    largest: dict[nn.Module, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda module, args: largest.update({module: args[0].abs().max().reshape(1)})
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        layer.__class__ = KINDS[type(layer)]
        layer.input_rounder = Rounder(largest[layer], per_channel=False)
        layer.weight_rounder = Rounder(
            layer.weight.detach().flatten(1).abs().amax(1), per_channel=True
        )
    return model.eval()
