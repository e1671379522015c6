"""Why the most sensitive layers hurt, as far as the ranges that were found for them and the values
of their quantizers tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from statistics import median

from sensitivity.records import Effect, OnGrid, Range, Role
from sensitivity.reporting.charts import effect_charts
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, includes_zero
from sensitivity.reporting.seen import WHAT, percent

SHOWN = 5
"""Layers that are explained at most, besides those left out."""

UNPROVEN = 3
"""Layers that are explained where none has an effect that is shown."""

COARSE = 1.25
"""Times that a step must be finer than before to be worth a sentence."""


@dataclass(frozen=True)
class Why:
    """One layer. effect: in words, with its interval. sentences: one for each range or bias that
    was found for it, or else on the quantizer that loses most. channels: ranges of its weights, or
    of what it reads, the widest first, as shares of that; empty where there is one range, or was
    one for each channel before. is_shown: whether its effect is more than chance."""

    unit: str
    effect: str
    sentences: tuple[str, ...]
    channels: tuple[float, ...]
    is_shown: bool


def reasons(data: ReportData) -> tuple[Why, ...]:
    """The most sensitive layers in the order of the chart, and those that the plan leaves out: not
    those whose effect may be nothing, unless that is all of them."""
    effects = {one.unit: one for one in data.effects}
    order = [effects[row.name] for chart in effect_charts(data) for row in chart.rows]
    worst = _worst(order)
    others = set(data.plan.skip if data.plan else ()).difference(map(attrgetter("unit"), worst))
    left_out = [one for one in order if one.unit in others]
    rows = [_why(data, effect) for effect in (*worst, *left_out[:SHOWN])]
    return tuple(row for row in rows if row.sentences)


def _worst(order: list[Effect]) -> list[Effect]:
    clear = [one for one in order if not includes_zero(one.effect)]
    return clear[:SHOWN] or order[:UNPROVEN]


def _why(data: ReportData, effect: Effect) -> Why:
    found = next((one for one in data.ranges if one.unit == effect.unit), None)
    pairs = found.pairs if found else ()
    roles = {quantizer.name: quantizer.role for quantizer in data.quantizers}
    metric = MetricFormat(data.metric, data.full_scale)
    sentences = list[str]()
    for old, new in pairs:
        sentences += range_sentences(old, new, roles.get(new.quantizer, "weight"))
    split = [new.amax for old, new in pairs if is_split(old, new)]
    channels = sorted(chain.from_iterable(split[:1]), reverse=True)
    words = f"{metric.effect(effect)} {metric.interval(effect.effect)}".rstrip()
    shares = tuple(round(one / channels[0], 4) for one in channels)
    said = tuple(dict.fromkeys(sentences)) or tuple(_loss_sentences(data, effect.unit))
    return Why(effect.unit, words, said, shares, not includes_zero(effect.effect))


def _loss_sentences(data: ReportData, unit: str) -> Iterator[str]:
    """What the quantizer of a unit that loses most loses, against all of its kind; nothing where
    the values were not kept."""
    seen = data.seen.quantizers if data.seen else ()
    lost = {one.quantizer: (_lost(one.on_grid), one.role) for one in seen if one.on_grid}
    owners = {name: one.name for one in data.units for name in one.quantizers}
    own = [found for name, found in lost.items() if owners.get(name) == unit]
    if own:
        most, role = max(own)
        usual = median(share for share, other in lost.values() if other == role)
        yield (
            f"{WHAT[role]}: {percent(most)} of their power is lost by rounding and clipping; the "
            f"median layer loses {percent(usual)}."
        )


def _lost(grid: OnGrid) -> float:
    """By rounding and clipping, as a share of the mean square."""
    return grid.rounding + grid.clipping


def is_split(old: Range, new: Range) -> bool:
    """Whether one range for a tensor became one for each channel."""
    return len(old.amax) == 1 < len(new.amax) and max(new.amax) > 0


def range_sentences(old: Range, new: Range, role: Role = "weight") -> Iterator[str]:
    """What another range or a corrected bias says of a quantizer; nothing where it is as before.

    role: of the quantizer. Weights get a range per channel, and so does what a depthwise
    convolution reads, where it is equalized.

    >>> own, found = Range("a", "own", (6.0,)), Range("a", "mse", (2.0,))
    >>> next(range_sentences(own, found))
    'Activations: few values lie beyond 2 (mse), but the range went to 6: steps 3 times as coarse.'
    """
    if is_split(old, new):
        yield _uneven(new, "Weights" if role == "weight" else "Activations")
    elif len(old.amax) == len(new.amax) == 1:
        yield from _clipped(old, new)
    if new.bias is not None and any(new.bias):
        yield f"Biases: rounding the weights moved outputs by up to {max(map(abs, new.bias)):.2g}."
    if new.rounding is not None:
        yield "Weights: rounded to the nearest level they are further from float than as learned."


def _uneven(new: Range, what: str) -> str:
    """How far apart the channels of a tensor lie that had one range."""
    widest, usual = max(new.amax), median(new.amax)
    times = f"{widest / usual:.3g} times" if usual > 0 else "infinitely many times"
    return (
        f"{what}: the widest of {len(new.amax)} channels reaches {widest:.3g}, the median "
        f"one {usual:.3g}. One scale for all of them makes steps {times} as coarse as the "
        "median channel needs."
    )


def _clipped(old: Range, new: Range) -> Iterator[str]:
    """Where a range for a whole tensor became narrower."""
    before, now = _width(old), _width(new)
    if now <= 0 or before / now < COARSE:
        return
    what = "Activations" if new.axis is None else "Weights"
    yield (
        f"{what}: few values lie beyond {_ends(new)} ({new.method}), but the range went to "
        f"{_ends(old)}: steps {before / now:.2g} times as coarse."
    )


def _width(one: Range) -> float:
    return 2 * one.amax[0] if one.low is None else one.amax[0] - one.low


def _ends(one: Range) -> str:
    """Of a range, in words.

    >>> _ends(Range("a", "mse", (2.5,), low=-0.25))
    '[-0.25, 2.5]'
    """
    return f"{one.amax[0]:.3g}" if one.low is None else f"[{one.low:.3g}, {one.amax[0]:.3g}]"
