"""Equalization of activations in front of depthwise convolutions (Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction", from the activations' side).

Channels of what a convolution gives differ in size, and one range for all leaves small ones few
levels. A depthwise convolution takes each channel by itself, so a range per channel can be put into
the weights before and behind, which have scales per channel already: nothing in an engine changes.
Costs one forward on the calibration inputs.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from sensitivity import optional
from sensitivity.quantizers.torch.calls import call, device_of, to_device
from sensitivity.records import Range, names_of

if TYPE_CHECKING:
    from torch import Tensor

METHOD = "equalized"

SMALLEST = 1e-3
"""The range of a channel that gives hardly anything, over that of the largest."""

PARTS = np.linspace(0.15, 1.0, 35)
"""Of the largest value of each channel: the ranges that are tried."""

BINS = 4096
"""Of a channel's histogram: a step of 8 bits is 16 bins or more. All values count, since the few
large ones decide: with 8,000 of 200 images MobileNetV1 was a tenth further from float."""


def equalized_ranges(source: Any, names: Collection[str], inputs: Any) -> tuple[Range, ...]:
    """For each of these quantizers a range per channel: of each channel the part of its largest
    value that has the smallest mean squared error.

    source: a model of torch with ranges. names: quantizers of images, whose channels are axis 1.
    inputs: one batch with all samples, as the model takes it. A quantizer that one forward does not
    reach gets nothing.
    """
    found: dict[str, Range] = {}

    def hook_for(name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            found[name] = _range(source, name, args[0])

        return hook

    every = names_of(source.quantizers)
    with ExitStack() as stack:
        stack.enter_context(optional.torch.no_grad())
        stack.enter_context(source.disabled(every))
        for name in names:
            module = source.model.get_submodule(name)
            stack.callback(module.register_forward_pre_hook(hook_for(name)).remove)
        call(source.model, to_device(inputs, device_of(source.model)))
    return tuple(found.values())


def _range(source: Any, name: str, values: Tensor) -> Range:
    rows = values.float().transpose(0, 1).flatten(1)
    peaks = rows.abs().amax(1)
    peaks = peaks.clamp(min=max(float(peaks.max()) * SMALLEST, 1e-6))
    counts = optional.torch.stack(
        [row.histc(BINS, -peak, peak) for row, peak in zip(rows, peaks.tolist(), strict=True)]
    )
    centres = (optional.torch.arange(BINS, device=rows.device) + 0.5) * (2 / BINS) - 1
    grid = source.grid(name)

    def errors(part: float) -> Tensor:
        levels = (centres * (grid.high / part)).round().clamp(grid.low, grid.high)
        found: Tensor = counts @ (levels * (part / grid.high) - centres).square()
        return found

    best = optional.torch.stack([errors(part) for part in PARTS.tolist()]).argmin(0)
    parts = optional.torch.as_tensor(PARTS, dtype=peaks.dtype, device=peaks.device)
    return Range(name, METHOD, tuple((parts[best] * peaks).tolist()), axis=1)
