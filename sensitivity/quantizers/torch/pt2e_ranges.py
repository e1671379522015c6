"""Sets other ranges for the pairs of a PT2E graph for a while, and finds candidates from
histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensitivity import optional
from sensitivity.errors import ModelError
from sensitivity.quantizers.base import QuantizedModel, Watchable, weights_and_activations
from sensitivity.quantizers.histogram import Ends, Histogram
from sensitivity.quantizers.ranges import E4M3_HIGH
from sensitivity.records import Grid, Quantizer, Range

if TYPE_CHECKING:
    from sensitivity.quantizers.torch.pt2e_view import PairQuantizer

SMALLEST_SCALE = 2.0**-40
"""Scale of a range that holds nothing but 0."""


class Ranged(QuantizedModel, Watchable, Protocol):
    """A PT2E model, as far as its ranges need it."""

    def range(self, name: str) -> Range:
        """Return the present range of a quantizer."""
        ...


def range_of(name: str, grid: Grid) -> Range:
    """Return the range of a quantizer's own grid.

    It has a smallest value only if it is asymmetric and one for the whole tensor.
    """
    scale = grid.scale.astype(np.float64).reshape(-1)
    amax = _float32((grid.high - grid.zero_point) * scale)
    if is_symmetric(grid) or grid.axis is not None:
        return Range(name, "own", amax, grid.axis)
    (low,) = _float32((grid.low - grid.zero_point) * scale)
    return Range(name, "own", amax, low=low)


def is_symmetric(grid: Grid) -> bool:
    """Return whether a grid has as many levels on both sides of 0, up to one."""
    return grid.zero_point == 0 and grid.low + grid.high in (-1, 0)


def _float32(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.astype(np.float32).tolist())


@contextmanager
def range_set(module: PairQuantizer, own: Range, wanted: Range) -> Iterator[None]:
    """Give the quantizer module this range inside the `with`, and its own grid back after it.

    own: its present range. A wanted range that is equal keeps the grid bit for bit.
    """
    before = dict(vars(module))
    try:
        if replace(wanted, method=own.method, bias=own.bias, rounding=own.rounding) != own:
            _set(module, wanted)
        yield
    finally:
        vars(module).update(before)


def _set(module: PairQuantizer, wanted: Range) -> None:
    """Give the module the grid of this range."""
    low, high = _levels(module, wanted.bits)
    amax = np.asarray(wanted.amax, np.float64)
    module.fp8 = wanted.fp8
    if wanted.fp8:
        low, high, zero_point = -E4M3_HIGH, E4M3_HIGH, 0
        scale = amax / high
    elif wanted.low is None:
        zero_point = int(np.asarray(module.zero_point).reshape(-1)[0])
        scale = amax / (high - zero_point)
    else:
        scale = (amax - wanted.low) / (high - low)
        steps = np.rint(-wanted.low / np.maximum(scale[0], SMALLEST_SCALE))
        zero_point = int(np.clip(low + steps, low, high))
    scale = np.maximum(scale, SMALLEST_SCALE)
    module.low, module.high, module.axis = low, high, wanted.axis
    if wanted.axis is None:
        module.scale, module.zero_point = float(scale[0]), zero_point
        return
    module.scale = optional.torch.tensor(scale, dtype=optional.torch.float32)
    module.zero_point = optional.torch.full((len(scale),), zero_point)


@contextmanager
def file_levels(module: PairQuantizer) -> Iterator[None]:
    """Give a quantizer module the smallest level inside the `with` that it has in a file."""
    before = module.low
    try:
        if not module.fp8:
            module.low, _ = _levels(module, None)
        yield
    finally:
        module.low = before


def _levels(module: PairQuantizer, bits: int | None) -> tuple[int, int]:
    """Return the smallest and the largest level with this number of bits and the same sign; None
    keeps the bits.

    A grid from -127 to 127 gets -128 too. Values that a new range clips end there in a file and in
    every engine.
    """
    low, high = module.low, module.high
    if bits is not None:
        high = 2**bits - 1 if low >= 0 else 2 ** (bits - 1) - 1
    is_centred = low < 0 and int(np.asarray(module.zero_point).reshape(-1)[0]) == 0
    return (-high - 1 if is_centred else low), high


def other_ranges(
    source: Ranged, names: Iterable[str], forward: Callable[[], None]
) -> tuple[Range, ...]:
    """Return other ranges for these quantizers, in the order of `names`.

    Activations with one range per tensor get those by percentile, MSE and entropy of the values
    that reach them in float; weights with one symmetric range per tensor get one per output
    channel. All others get none.

    forward: runs the model on the calibration data.
    """
    by_name = {quantizer.name: quantizer for quantizer in source.quantizers}
    asked = [by_name[name] for name in dict.fromkeys(names)]
    wanted = [quantizer for quantizer in asked if _has_one_range(source, quantizer)]
    weights, activations = weights_and_activations(wanted)
    found = _calibrated(source, activations, forward)
    if weights:
        found |= _per_channel(source, weights)
    ranges: list[Range] = []
    for quantizer in wanted:
        ranges += found.get(quantizer.name, ())
    return tuple(ranges)


def _has_one_range(source: Ranged, quantizer: Quantizer) -> bool:
    try:
        source.range(quantizer.name)
    except ModelError:
        return False
    return quantizer.axis is None


def _calibrated(
    source: Ranged, quantizers: Iterable[Quantizer], forward: Callable[[], None]
) -> dict[str, tuple[Range, ...]]:
    histograms = {quantizer.name: Histogram() for quantizer in quantizers}
    if not histograms:
        return {}

    def see(name: str, values: NDArray[Any]) -> None:
        if name in histograms:
            histograms[name].add(values)

    with source.watching(see):
        forward()
    return {name: _ranges_of(name, source.grid(name), seen) for name, seen in histograms.items()}


def _ranges_of(name: str, grid: Grid, histogram: Histogram) -> tuple[Range, ...]:
    symmetric = is_symmetric(grid)
    by_method: Mapping[str, Ends] = {}
    if histogram.total:
        by_method = histogram.ranges(grid.high - grid.low, symmetric=symmetric)
    ranges = []
    for method, ends in by_method.items():
        low, high = _float32(np.asarray(ends, np.float64))
        ranges.append(Range(name, method, (high,), low=None if symmetric else low))
    return tuple(ranges)


def _per_channel(source: Ranged, quantizers: Iterable[Quantizer]) -> dict[str, tuple[Range, ...]]:
    """Return one range per output channel for each of these weights whose axis of channels is
    known."""
    axes: dict[str, int] = getattr(source, "channel_axes", {})
    wanted = {quantizer.name for quantizer in quantizers} & axes.keys()
    ranges: dict[str, tuple[Range, ...]] = {}
    for name, weight, _ in source.weights():
        if name not in wanted or not is_symmetric(source.grid(name)):
            continue
        axis = axes[name]
        amax = np.abs(np.moveaxis(weight, axis, 0)).reshape(weight.shape[axis], -1).max(axis=1)
        if amax.max() > 0:
            ranges[name] = (Range(name, "per channel", _float32(amax.astype(np.float64)), axis),)
    return ranges
