"""Groups the channels of a model's outputs by their unit, so that pixels, say, do not drown the
probabilities beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sensitivity.signals.base import Outputs

Values = NDArray[np.float64]

GAP = 10.0
"""Ratio of sizes beyond which two neighbours, among channels ordered by size, are of different
units."""

LEAST = 8
"""Number of values that a channel must have for its size to be known."""

CONSTANT = 1e-12
"""Fraction of a group's power below which its spread is rounding."""


@dataclass(frozen=True)
class Group:
    """Channels of one output that share a unit.

    output: index of the output.
    power: float's spread squared, over the data and the group; 0 if float gives nothing but 0.
    axis: axis of the output's channels.
    channels: int[k], indices of the channels; None for the whole output.
    """

    output: int
    power: float
    axis: int = 1
    channels: NDArray[np.intp] | None = None

    def of(self, array: NDArray[np.floating]) -> Values:
        """Return the values of an output that belong to the group, float64[n, values]."""
        part = array
        if self.channels is not None:
            part = np.take(array, self.channels, self.axis)
        return part.reshape(len(part), -1).astype(np.float64)


def groups_of(batches: Iterable[Outputs]) -> tuple[Group, ...]:
    """Return the groups of all outputs, in order.

    Channels lie along the axis with the largest gap between sizes. Channels whose values all lie in
    [0, 1] count as probabilities and share a unit, however rare some of them are. Other channels
    are separated if their root mean squares are GAP times apart. An output without such a gap is
    one group.

    batches: outputs of the float model for the data.
    """
    statistics = list[_Output]()
    for outputs in batches:
        statistics = statistics or [_Output(array.ndim) for array in outputs]
        for seen, array in zip(statistics, outputs, strict=True):
            seen.add(array)
    groups = list[Group]()
    for index, seen in enumerate(statistics):
        groups += seen.groups(index)
    return tuple(groups)


@dataclass
class _Sums:
    """Statistics of each channel along one axis: the number of values, their sum, the sum of their
    squares, the smallest and the largest."""

    count: int = 0
    total: Values = field(default_factory=lambda: np.zeros(0))
    squares: Values = field(default_factory=lambda: np.zeros(0))
    low: Values = field(default_factory=lambda: np.zeros(0))
    high: Values = field(default_factory=lambda: np.zeros(0))

    def add(self, rows: Values) -> None:
        """Add these values.

        rows: float64[channels, values].
        """
        if not self.count:
            self.total, self.squares = np.zeros((2, len(rows)))
            self.low, self.high = np.full(len(rows), np.inf), np.full(len(rows), -np.inf)
        self.count += rows.shape[1]
        self.total = self.total + rows.sum(axis=1)
        self.squares = self.squares + np.einsum("cv,cv->c", rows, rows)
        self.low, self.high = (
            np.minimum(self.low, rows.min(axis=1)),
            np.maximum(self.high, rows.max(axis=1)),
        )

    def size(self) -> Values:
        """Return the root mean square of each channel."""
        return np.asarray(np.sqrt(self.squares / self.count))

    def power(self, channels: NDArray[np.intp]) -> float:
        """Return the mean square distance from each channel's own mean.

        For constant channels it is the distance from 0; without any values it is 0.
        """
        if not self.count:
            return 0.0
        square = self.squares[channels].mean() / self.count
        spread = square - np.mean((self.total[channels] / self.count) ** 2)
        return float(spread if spread > CONSTANT * square else square)


class _Output:
    """Statistics of one output of the float model over the batches, for every axis that may be that
    of its channels."""

    def __init__(self, axes: int) -> None:
        self._whole = _Sums()
        self._axes = {axis: _Sums() for axis in range(1, axes)}

    def add(self, array: NDArray[np.floating]) -> None:
        values = array.astype(np.float64)
        if not values.size:
            return
        self._whole.add(values.reshape(1, -1))
        for axis, sums in list(self._axes.items()):
            rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
            if sums.count and len(rows) != len(sums.total):
                del self._axes[axis]  # an axis whose length depends on values has no channels
            else:
                sums.add(rows)

    def groups(self, output: int) -> list[Group]:
        """Return the groups of this output.

        output: its index among the model's outputs.
        """
        whole = Group(output, self._whole.power(np.array([0])))
        parted = {axis: _parts(sums) for axis, sums in self._axes.items()}
        if not parted:
            return [whole]
        axis = max(parted, key=lambda axis: parted[axis][0])
        gap, parts = parted[axis]
        if gap < GAP:
            return [whole]
        sums = self._axes[axis]
        return [Group(output, sums.power(part), axis, part) for part in parts]


def _parts(sums: _Sums) -> tuple[float, list[NDArray[np.intp]]]:
    """Return the ratio of the largest to the smallest size of a group, and the channels in groups
    of one unit."""
    channels = np.arange(len(sums.total))
    if sums.count < LEAST:
        return 1.0, [channels]
    size = sums.size()
    probable = (sums.low >= 0) & (sums.high <= 1)
    every = (channels[probable], *_by_gap(channels[~probable], size))
    parts = [part for part in every if part.size]
    typical = np.array([np.sqrt(np.mean(size[part] ** 2)) for part in parts])
    least = typical.min(initial=np.inf, where=typical > 0)
    return float(typical.max(initial=0.0) / least), parts


def _by_gap(channels: NDArray[np.intp], size: Values) -> list[NDArray[np.intp]]:
    order = channels[np.argsort(size[channels], kind="stable")]
    ordered = size[order]
    gaps = np.flatnonzero((ordered[1:] > GAP * ordered[:-1]) & (ordered[:-1] > 0)) + 1
    return [np.sort(part) for part in np.split(order, gaps)]
