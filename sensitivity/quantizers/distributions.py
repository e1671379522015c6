"""Distributions of the values that quantizers get, and the error that their grids add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sensitivity.onnx_graph.levels import along
from sensitivity.quantizers.histogram import Histogram
from sensitivity.records import Distribution, Grid, OnGrid, Quantizer

BINS = 64
CHANNELS = 64
"""Number of channels whose largest values are kept, at most."""

MOST_VALUES = 2**18
"""Number of values that are read from one tensor of one batch, at most."""

Array = NDArray[np.float64]


def of_activation(quantizer: Quantizer, seen: Histogram, grid: Grid | None) -> Distribution | None:
    """Return the distribution of the values that an activation quantizer got; None if it got none.

    seen: histogram of the values.
    grid: a grid with one scale; None if it is not an integer grid.
    """
    if not seen.total:
        return None
    middles, counts = seen.bins()
    return _on_grid(_distribution(quantizer, middles, counts), middles, counts, grid)


def of_weight(
    quantizer: Quantizer, weight: NDArray[np.floating], grid: Grid | None, axis: int | None
) -> Distribution | None:
    """Return the distribution of a weight; None for a weight without finite values.

    weight: float values of any shape.
    grid: its integer grid; None if it has none.
    axis: axis of its output channels; None if it is not known.
    """
    values = np.asarray(weight, np.float64)
    if not values.size or not np.isfinite(values).all():
        return None
    ones = np.ones(values.shape)
    distribution = _on_grid(_distribution(quantizer, values, ones), values, ones, grid)
    if axis is None:
        return distribution
    if distribution.on_grid is not None and grid is not None:
        of_median = _median_channel_error(values, grid, axis)
        distribution = replace(
            distribution, on_grid=replace(distribution.on_grid, median_channel=of_median)
        )
    largest = np.sort(np.abs(_by_channel(values, axis)).max(axis=1))[::-1]
    positions = np.linspace(0, len(largest) - 1, min(len(largest), CHANNELS)).round().astype(int)
    return replace(distribution, channels=tuple(map(_short, largest[positions])))


def _distribution(quantizer: Quantizer, values: Array, counts: Array) -> Distribution:
    low, high = float(values.min()), float(values.max())
    widened = low + 1e-12 * max(1.0, abs(low))  # for the case that all values are the same
    ends = (low, max(high, widened))
    binned, _ = np.histogram(values, BINS, range=ends, weights=counts)
    whole = tuple(binned.astype(int).tolist())
    return Distribution(quantizer.name, quantizer.role, _short(low), _short(high), whole)


def _on_grid(
    distribution: Distribution, values: Array, counts: Array, grid: Grid | None
) -> Distribution:
    """Return the distribution with the error that the grid adds to these values.

    counts: number of times that each value occurs.
    """
    if grid is None:
        return distribution
    step, ends = _steps_and_ends(grid, values.ndim)
    rounded, is_clipped = _quantized(values, step, ends)
    squares = (rounded - values) ** 2 * counts
    power = float((values**2 * counts).sum()) or 1.0
    on_grid = OnGrid(
        ends=(_short(ends[0].min()), _short(ends[1].max())),
        step=(_short(step.min()), _short(step.max())),
        clipped=_short((is_clipped * counts).sum() / counts.sum()),
        rounding=_short(squares[~is_clipped].sum() / power),
        clipping=_short(squares[is_clipped].sum() / power),
    )
    return replace(distribution, on_grid=on_grid)


def _median_channel_error(values: Array, grid: Grid, axis: int) -> float:
    rounded, _ = _quantized(values, *_steps_and_ends(grid, values.ndim))
    errors = _by_channel((rounded - values) ** 2, axis).sum(axis=1)
    power = _by_channel(values**2, axis).sum(axis=1)
    return _short(np.median(errors / np.maximum(power, 1e-30)))


def _steps_and_ends(grid: Grid, axes: int) -> tuple[Array, tuple[Array, Array]]:
    """Return the steps, and the smallest and largest values that do not clip, in shapes that
    broadcast to a tensor with this many axes."""
    step = along(np.asarray(grid.scale, np.float64), grid.axis, axes)
    return step, ((grid.low - grid.zero_point) * step, (grid.high - grid.zero_point) * step)


def _quantized(
    values: Array, step: Array, ends: tuple[Array, Array]
) -> tuple[Array, NDArray[np.bool_]]:
    """Return the values on the grid, and which of them clip.

    Values within half a step beyond the ends are rounded, not clipped.
    """
    kept = np.clip(values, *ends)
    return np.rint(kept / step) * step, np.abs(values - kept) > step / 2


def _by_channel(values: Array, axis: int) -> Array:
    """Return the values as float[channels, values]."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _short(value: float) -> float:
    """Return the value with four digits: more are noise, and a page reads the file."""
    return float(f"{value:.4g}")


def thinned(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return at most `MOST_VALUES` evenly spaced values of a large tensor, and its smallest and
    largest value."""
    flat = values.reshape(-1)
    if flat.size <= MOST_VALUES:
        return flat
    every = flat[:: -(-flat.size // MOST_VALUES)]
    return np.concatenate([every, [flat.min(), flat.max()]])
