"""Describes the inputs of each quantizer, which show why a layer hurts.

It shows a histogram, the range before and after a repair, and the loss by rounding and by clipping.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from sensitivity.records import Distribution, OnGrid, Range, Unit
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MINUS
from sensitivity.reporting.kinds import is_moved

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Heights of bars, one character each, as the page's script reads them."""

ROUNDED = 1e-9
"""Loss by rounding of weights below which they are on their grid already."""

WHAT = {"weight": "Weights", "input": "Activations", "output": "Output"}

Ends = tuple[float, float]


@dataclass(frozen=True)
class DrawnHistogram:
    """What the page draws for one quantizer.

    bars: heights by the square root, in `DIGITS`.
    span, original, repaired: ends of the histogram, of the original range and of the range after a
        repair, as fractions of the width; None if there is no such range.
    sentences: remarks on it.
    channels: ranges of its weight's channels as fractions of the largest, the largest first.
    """

    what: str
    quantizer: str
    bars: str
    span: Ends
    original: Ends | None
    repaired: Ends | None
    sentences: tuple[str, ...]
    channels: tuple[float, ...]


def histograms_by_unit(data: ReportData) -> dict[str, list[DrawnHistogram]]:
    """Return unit -> its quantizers with a known distribution, those of its weights first.

    Returns an empty dict if no distributions were kept.
    """
    known = {each.quantizer: each for each in data.quantizer_inputs}
    if not known:
        return {}
    new = dict[str, Range]()
    for repair in data.ranges:
        for old, new_range in repair.pairs:
            if is_moved(old, new_range):
                new[new_range.quantizer] = new_range
    return {unit.name: _of_unit(unit, known, new) for unit in data.units}


def _of_unit(
    unit: Unit, known: dict[str, Distribution], new: dict[str, Range]
) -> list[DrawnHistogram]:
    own = [known[name] for name in unit.quantizers if name in known]
    # Of all roles, "weight" is the last by the alphabet.
    own.sort(key=attrgetter("role"), reverse=True)
    return [_histogram(values, new.get(values.quantizer)) for values in own]


def _histogram(values: Distribution, new_range: Range | None) -> DrawnHistogram:
    """Return what the page draws for one quantizer.

    new_range: the range after a repair; None if it did not change.
    """
    own = None if values.on_grid is None else values.on_grid.ends
    repaired = None if new_range is None else ends_of(new_range)
    known: list[float] = [values.low, values.high, *(own or ()), *(repaired or ())]
    left = min(known)
    width = (max(known) - left) or 1.0

    def share(value: float) -> float:
        return round((value - left) / width, 4)

    def shares(ends: Ends | None) -> Ends | None:
        return ends and (share(ends[0]), share(ends[1]))

    largest = max(values.channels, default=0.0) or 1.0
    return DrawnHistogram(
        WHAT[values.role],
        values.quantizer,
        bars(values.counts),
        span=(share(values.low), share(values.high)),
        original=shares(own),
        repaired=shares(repaired),
        sentences=tuple(_sentences(values, new_range)),
        channels=tuple(round(channel / largest, 3) for channel in values.channels),
    )


def bars(counts: Sequence[int]) -> str:
    """Return heights by the square root, so that rare values show; every count but 0 has a height.

    >>> bars((0, 1, 25, 1225))
    '015z'
    """
    most = max(counts, default=0) or 1
    top = len(DIGITS) - 1
    heights = [math.ceil(top * math.sqrt(count / most)) for count in counts]
    return "".join(map(DIGITS.__getitem__, heights))


def ends_of(range_: Range) -> Ends:
    """Return the smallest and the largest value that does not clip in any channel."""
    largest = max(range_.amax)
    if range_.low is None:
        return -largest, largest
    return range_.low, largest


def _sentences(values: Distribution, new_range: Range | None) -> Iterator[str]:
    yield f"Values from {_number(values.low)} to {_number(values.high)}."
    if values.on_grid is None:
        yield "Its format has no integer grid."
        return
    yield f"Range {_between(values.on_grid.ends)}, {_steps(values.on_grid.step)}."
    yield from _losses(values, values.on_grid)
    if new_range is not None:
        yield _after_repair(values, values.on_grid, new_range)


def _losses(values: Distribution, own: OnGrid) -> Iterator[str]:
    if values.role == "weight" and own.rounding < ROUNDED:
        yield "They are on their grid already: their float values are not known."
        return
    clips = f"{percent(own.clipped)} of the values clip" if own.clipped else "Nothing clips"
    yield (
        f"{clips}. Of their power, {percent(own.rounding)} is lost by rounding and "
        f"{percent(own.clipping)} by clipping."
    )
    if own.median_channel is not None:
        yield f"In the median channel {percent(own.median_channel)} of its own power is lost."


def _after_repair(values: Distribution, own: OnGrid, new_range: Range) -> str:
    """Return a sentence on what another range does to the same values.

    A step twice as coarse loses four times as much by rounding.
    """
    levels = (own.ends[1] - own.ends[0]) / own.step[1]
    low, high = ends_of(new_range)
    largest = np.array(new_range.amax)
    lowest = -largest if new_range.low is None else new_range.low
    steps = (largest - lowest) / levels
    coarser = float(np.mean(steps**2) / np.mean(np.square(own.step)))
    rounding = f"about {percent(own.rounding * coarser)} is lost by rounding"
    sentence = f"After the repair ({new_range.method}) {_between((low, high))}, "
    sentence += _steps((steps.min(), steps.max()))
    if len(new_range.amax) > 1:
        return f"{sentence}: {rounding}."
    return f"{sentence}: about {percent(beyond(values, (low, high)))} clips, {rounding}."


def beyond(values: Distribution, ends: Ends) -> float:
    """Return the fraction of the values outside these ends, as far as the bins tell."""
    edges = np.linspace(values.low, values.high, len(values.counts) + 1)
    up_to = np.concatenate([[0.0], np.cumsum(values.counts)])
    low, high = np.interp(ends, edges, up_to)
    return float(1 - (high - low) / up_to[-1])


def _between(ends: Ends) -> str:
    return f"from {_number(ends[0])} to {_number(ends[1])}"


def _steps(step: Ends) -> str:
    """Return the step of a grid in words, or the smallest and the largest of all channels."""
    least, most = map(_number, step)
    if least == most:
        return f"in steps of {most}"
    return f"in steps from {least} to {most}, by channel"


def _number(value: float) -> str:
    """Return three significant digits, with a true minus sign."""
    number = f"{value:.3g}"
    if value < 0:
        return number.replace("-", MINUS, 1)
    return number


def percent(share: float) -> str:
    """Return a fraction in percent, with two significant digits.

    >>> percent(0.0191), percent(0.0), percent(0.0000004)
    ('1.9 %', 'nothing', 'under 0.001 %')
    """
    if share == 0:
        return "nothing"
    if share < 1e-5:
        return "under 0.001 %"
    return f"{100 * share:.2g} %"
