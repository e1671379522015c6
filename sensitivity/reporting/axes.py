"""Positions in a figure: axes around data, round ticks, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Axis:
    """The range of an axis and the values that are labelled on it, in the unit of what is drawn."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        """Return a tick as text, with as many digits as the ticks need to differ."""
        return f"{tick:.10g}".replace("-", "\N{MINUS SIGN}")


def axis_around(values: Iterable[float], zero: bool, ticks: int = 5) -> Axis:
    """Return an axis that holds all values with a little room, and zero only if asked.

    zero: whether zero must be on the axis.
    ticks: approximate number of ticks.

    >>> axis_around([28.0, 52.0], zero=False)
    Axis(low=26.8, high=53.2, ticks=(30.0, 35.0, 40.0, 45.0, 50.0))
    """
    shown = list(values)
    if zero:
        shown.append(0.0)
    low, high = min(shown), max(shown)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    # An end at zero is the axis itself, which needs no room, unless nothing else is shown.
    has_fixed_low = zero and low == 0
    has_fixed_high = zero and high == 0 and low < 0
    if not has_fixed_low:
        low -= room
    if not has_fixed_high:
        high += room
    return Axis(low, high, _ticks(low, high, ticks))


def _ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(number * step, 12) for number in range(first, last + 1))


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return the positions, pushed apart until neighbours are at least `gap` away.

    This separates labels that would overlap.

    >>> spread([0.50, 0.52], gap=0.1)
    [0.46, 0.56]
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = [places[index] for index in order]
    for _ in range(20 * len(moved)):  # each round moves neighbours only, so a crowd needs several
        for left, right in pairwise(range(len(moved))):
            overlap = gap - (moved[right] - moved[left])
            if overlap > 1e-12:
                moved[left] -= overlap / 2
                moved[right] += overlap / 2
    by_index = dict(zip(order, moved, strict=True))
    return [round(by_index[index], 6) for index in range(len(places))]
