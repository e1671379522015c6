"""Why a layer hurts, from the values that its quantizers get: a histogram, the range before and
after a repair, and what is lost by rounding and by clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

import numpy as np

from sensitivity.records import Distribution, OnGrid, Range, Unit
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MINUS

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Heights of bars, one character each, as the page's script reads them."""

ROUNDED = 1e-9
"""Rounding of weights below which they stand on their grid already."""

WHAT = {"weight": "Weights", "input": "Activations", "output": "Output"}

Ends = tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """What the page draws of one quantizer. bars: heights by the square root, in `DIGITS`.

    place, own, found: where bars, the range and that after a repair begin and end, as shares of the
    width; None where there is no such range. sentences: what to say of it. channels: ranges of its
    weight's channels as shares of the largest, the largest first.
    """

    what: str
    quantizer: str
    bars: str
    place: Ends
    own: Ends | None
    found: Ends | None
    sentences: tuple[str, ...]
    channels: tuple[float, ...]


def seen_by_unit(data: ReportData) -> dict[str, list[Seen]]:
    """Unit -> its quantizers of which values were kept, those of its weights first; empty where
    none were."""
    known = {one.quantizer: one for one in data.seen.quantizers} if data.seen else {}
    pairs = chain.from_iterable(one.pairs for one in data.ranges)
    # A corrected bias leaves the range as it is.
    new = {
        found.quantizer: found
        for old, found in pairs
        if (old.amax, old.low) != (found.amax, found.low)
    }
    return {unit.name: _of_unit(unit, known, new) for unit in data.units if known}


def _of_unit(unit: Unit, known: dict[str, Distribution], new: dict[str, Range]) -> list[Seen]:
    own = [known[name] for name in unit.quantizers if name in known]
    # "weight" is the last of the roles by the alphabet.
    own.sort(key=attrgetter("role"), reverse=True)
    return [_seen(one, new.get(one.quantizer)) for one in own]


def _seen(one: Distribution, found: Range | None) -> Seen:
    own = None if one.on_grid is None else one.on_grid.ends
    ends = None if found is None else ends_of(found)
    known = [one.low, one.high, *(own or ()), *(ends or ())]
    left, width = min(known), (max(known) - min(known)) or 1.0

    def shares(pair: Ends | None) -> Ends | None:
        return pair and (round((pair[0] - left) / width, 4), round((pair[1] - left) / width, 4))

    largest = max(one.channels, default=0.0) or 1.0
    return Seen(
        WHAT[one.role],
        one.quantizer,
        bars(one.counts),
        shares((one.low, one.high)) or (0.0, 1.0),
        shares(own),
        shares(ends),
        tuple(_sentences(one, found)),
        tuple(round(value / largest, 3) for value in one.channels),
    )


def bars(counts: Sequence[int]) -> str:
    """Heights by the square root, so that rare values show; what is not 0 has a height.

    >>> bars((0, 1, 25, 1225))
    '015z'
    """
    most = max(counts, default=0) or 1
    top = len(DIGITS) - 1
    heights = [math.ceil(top * math.sqrt(count / most)) for count in counts]
    return "".join(DIGITS[height] for height in heights)


def ends_of(one: Range) -> Ends:
    """The smallest and the largest value that does not clip, of all channels."""
    largest = max(one.amax)
    return (-largest if one.low is None else one.low, largest)


def _sentences(one: Distribution, found: Range | None) -> Iterator[str]:
    yield f"Values from {_number(one.low)} to {_number(one.high)}."
    if one.on_grid is None:
        yield "Its format has no integer grid."
        return
    yield f"Range {_between(one.on_grid.ends)}, {_steps(one.on_grid.step)}."
    yield from _losses(one, one.on_grid)
    if found is not None:
        yield _repaired(one, one.on_grid, found)


def _losses(one: Distribution, own: OnGrid) -> Iterator[str]:
    if one.role == "weight" and own.rounding < ROUNDED:
        yield "They are on their grid already: their float values are not known."
        return
    clips = f"{percent(own.clipped)} of the values clip" if own.clipped else "Nothing clips"
    yield (
        f"{clips}. Of their power, {percent(own.rounding)} is lost by rounding and "
        f"{percent(own.clipping)} by clipping."
    )
    if own.median_channel is not None:
        yield f"In the median channel {percent(own.median_channel)} of its own power is lost."


def _repaired(one: Distribution, own: OnGrid, found: Range) -> str:
    """What another range makes of the same values: a step twice as coarse loses four times as much
    by rounding."""
    levels = (own.ends[1] - own.ends[0]) / own.step[1]
    low, high = ends_of(found)
    largest = np.array(found.amax)
    steps = (2 * largest if found.low is None else largest - low) / levels
    coarser = float(np.mean(steps**2) / np.mean(np.square(own.step)))
    rounding = f"about {percent(own.rounding * coarser)} is lost by rounding"
    told = f"After the repair ({found.method}) {_between((low, high))}, "
    told += _steps((steps.min(), steps.max()))
    if len(found.amax) > 1:
        return f"{told}: {rounding}."
    return f"{told}: about {percent(beyond(one, (low, high)))} clips, {rounding}."


def beyond(one: Distribution, ends: Ends) -> float:
    """Share of the values outside of these ends, as far as bins tell it."""
    edges = np.linspace(one.low, one.high, len(one.counts) + 1)
    up_to = np.concatenate([[0.0], np.cumsum(one.counts)])
    low, high = np.interp(ends, edges, up_to)
    return float(1 - (high - low) / up_to[-1])


def _between(ends: Ends) -> str:
    return f"from {_number(ends[0])} to {_number(ends[1])}"


def _steps(step: Ends) -> str:
    same = _number(step[0]) == _number(step[1])
    many = f"from {_number(step[0])} to {_number(step[1])}"
    return f"in steps of {_number(step[1])}" if same else f"in steps {many}, by channel"


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", MINUS, 1) if value < 0 else f"{value:.3g}"


def percent(share: float) -> str:
    """With two digits that matter.

    >>> percent(0.0191), percent(0.0), percent(0.0000004)
    ('1.9 %', 'nothing', 'under 0.001 %')
    """
    if share == 0:
        return "nothing"
    return "under 0.001 %" if share < 1e-5 else f"{100 * share:.2g} %"
