"""Equalizes the activations before depthwise convolutions.

The channels of an activation differ in size, and one range for all leaves the small ones few
levels. A depthwise convolution takes each channel by itself, so ranges per channel can be folded
into the weights before and after the activation, which have scales per channel already. Nothing in
an engine changes. It takes two forwards and a backward pass on the calibration inputs.

Applies Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction",
to activations. The range of a channel has the smallest mean squared error, where each error counts
by how much it changes what the model computes next (`slopes`). `repairs/onnx_equalization.py` does
the same for Q/DQ files.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from sensitivity import optional
from sensitivity.quantizers.base import form_of
from sensitivity.quantizers.ranges import Hook, hooked_in_float
from sensitivity.records import Range
from sensitivity.repairs.bias import forward
from sensitivity.repairs.channel_ranges import BINS, METHOD, SMALLEST
from sensitivity.repairs.samples import Parts, parts_of
from sensitivity.repairs.slopes import values_and_weights
from sensitivity.tasks.batches import batch_size

if TYPE_CHECKING:
    from torch import Tensor

PARTS = np.linspace(0.15, 1.0, 35)
"""Candidate ranges, as fractions of the largest value of a channel."""


def equalized_ranges(source: Any, names: Collection[str], inputs: Any) -> tuple[Range, ...]:
    """Return a range per channel for each of these quantizers, with the smallest weighted mean
    squared error.

    source: a torch model with ranges, or a Q/DQ file.
    names: quantizers of images, whose channel axis is 1.
    inputs: one batch as the model takes it, or `Parts`, which are seen as one.
    A quantizer that is not reached by the inputs has no range in the result.
    """
    if form_of(source) == "onnx":
        from sensitivity.repairs.onnx_equalization import equalized_in_file  # imports ONNX

        return equalized_in_file(source, names, parts_of(inputs))
    return _equalized_in_model(source, names, parts_of(inputs))


def _equalized_in_model(source: Any, names: Collection[str], parts: Parts) -> tuple[Range, ...]:
    """Return the ranges for a torch model."""
    batches = parts.batches
    peaks: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def widen(name: str) -> Hook:
        def hook(module: Any, args: Any) -> None:
            found = _rows(args[0]).abs().amax(1)
            peaks[name] = optional.torch.maximum(peaks.get(name, found), found)

        return hook

    # A second pass takes less memory than the values of all samples.
    with parts.show(2 * len(batches)) as advance:
        with hooked_in_float(source, {name: widen(name) for name in names}):
            for batch in batches:
                forward(source, batch)
                advance(1, 0)
        sizes = [batch_size(batch) for batch in batches]
        for batch, first in zip(batches, accumulate(sizes, initial=0), strict=False):
            for name, (values, weights) in values_and_weights(source, names, batch, first).items():
                found = _counts(_rows(values), _rows(weights), _bounded(peaks[name]))
                counts[name] = counts.get(name, 0) + found
            advance(1, 0)
    return tuple(_range(source, name, _bounded(peaks[name]), counts[name]) for name in counts)


def _bounded(peaks: Tensor) -> Tensor:
    """Return the largest value of each channel, at least `SMALLEST` of all."""
    return peaks.clamp(min=max(float(peaks.max()) * SMALLEST, 1e-6))


def _range(source: Any, name: str, peaks: Tensor, counts: Tensor) -> Range:
    centres = (optional.torch.arange(BINS, device=peaks.device) + 0.5) * (2 / BINS) - 1
    grid = source.grid(name)

    def errors(part: float) -> Tensor:
        levels = (centres * (grid.high / part)).round().clamp(grid.low, grid.high)
        squared: Tensor = counts @ (levels * (part / grid.high) - centres).square()
        return squared

    best = optional.torch.stack([errors(part) for part in PARTS.tolist()]).argmin(0)
    tried = optional.torch.as_tensor(PARTS, dtype=peaks.dtype, device=peaks.device)
    return Range(name, METHOD, tuple((tried[best] * peaks).tolist()), axis=1)


def _rows(values: Tensor) -> Tensor:
    """Return the values of each channel, float32[channels, n]."""
    return values.float().transpose(0, 1).flatten(1)


def _counts(rows: Tensor, weights: Tensor, peaks: Tensor) -> Tensor:
    """Return the weighted histogram of each channel, [channels, BINS].

    rows, weights: [channels, n].
    peaks: [channels], the end of the last bin; the first begins at minus that.
    """
    bins = ((rows / peaks[:, None] + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    bins += BINS * optional.torch.arange(len(rows), device=rows.device)[:, None]
    found = bins.flatten().bincount(weights.flatten(), BINS * len(rows))
    return found.float().reshape(len(rows), BINS)
