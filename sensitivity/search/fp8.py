"""FP8 E4M3 as an alternative to INT8 for a unit, for its weights and its activations alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensitivity.errors import ModelError
from sensitivity.quantizers.base import QuantizedModel
from sensitivity.quantizers.torch.tensor_quantizer import SMALLEST_AMAX
from sensitivity.records import Quantizer, Range, Unit
from sensitivity.rules.formats import MOST_TAPS

METHOD = "fp8"
"""Method of FP8 ranges in records and reports."""

BITS = 8
"""Width of FP8 values, and of the integers that they can replace at the same cost."""


def fp8_ranges(source: QuantizedModel, units: Iterable[Unit]) -> dict[str, tuple[Range, ...]]:
    """Return the ranges that put these units into FP8, by unit.

    An activation keeps the largest absolute value of its calibrated range, one for the whole
    tensor. A weight gets that of its own values, for each output channel where the axis of these is
    known. Left out are units with a quantizer that is not on an integer grid of 8 bits; biases in
    INT32 do not count, because they become float beside a weight with another grid.
    """
    by_name = {quantizer.name: quantizer for quantizer in source.quantizers}
    weights = _of_weights(source)
    found = {}
    for unit in units:
        own = [by_name[name] for name in unit.quantizers if by_name[name].format != "INT32"]
        if own and all(quantizer.bits == BITS for quantizer in own):
            try:
                found[unit.name] = tuple(_fp8_range(source, each, weights) for each in own)
            except ModelError:  # FP8 already, blocks, and ranges of each batch
                continue
    return found


def _of_weights(source: Any) -> dict[str, Range]:
    """Return weight quantizer -> its range in FP8."""
    return {name: _of_values(name, values, axis) for name, values, axis in source.weights()}


def _of_values(name: str, values: NDArray[np.floating], axis: int | None) -> Range:
    absolute = np.abs(values)
    if axis is not None:
        absolute = np.moveaxis(absolute, axis, 0).reshape(values.shape[axis], -1)
    largest = absolute.max(axis=None if axis is None else 1)
    amax = np.atleast_1d(largest).astype(np.float32)
    return Range(name, METHOD, tuple(amax.tolist()), axis, fp8=True)


def _fp8_range(source: Any, quantizer: Quantizer, weights: dict[str, Range]) -> Range:
    """Return the FP8 range of one quantizer. Raises ModelError if its range cannot be changed, or
    holds nothing but 0."""
    own = source.range(quantizer.name)
    if quantizer.role != "weight":
        return Range(quantizer.name, METHOD, (_largest(own),), fp8=True)
    if quantizer.name in weights:
        return weights[quantizer.name]
    return Range(quantizer.name, METHOD, own.amax, own.axis, fp8=True)


def _largest(own: Range) -> float:
    """Return the largest absolute value of a range. Raises ModelError if it is 0."""
    largest = max(-(own.low or 0.0), *own.amax)
    if largest <= SMALLEST_AMAX:
        raise ModelError(f"Expected {own.quantizer} to have a range above 0, got {largest}.")
    return largest


def slow_in_tensorrt(source: Any, units: Iterable[Unit]) -> frozenset[str]:
    """Return the units with a layer that TensorRT does not run in FP8 (`rules.weighted`, SQ308), or
    for which it has no fast kernel: depthwise convolutions (SQ309)."""
    slow = {name for name, values, axis in source.weights() if _is_slow(values.shape, axis)}
    return frozenset(unit.name for unit in units if not slow.isdisjoint(unit.quantizers))


def _is_slow(shape: Sequence[int], axis: int | None) -> bool:
    """Return whether a weight is that of a transposed or a depthwise convolution, or has a kernel
    that is too large.

    axis: axis of its output channels.
    """
    if len(shape) < 3:
        return False
    is_transposed, is_depthwise = axis == 1, shape[1] == 1 and shape[0] > 1
    return is_transposed or is_depthwise or math.prod(shape[2:]) > MOST_TAPS
