"""Why the most sensitive layers hurt, as far as the ranges that were found for them tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from sensitivity.records import Effect, Range, Recalibrated, Role
from sensitivity.reporting.charts import effect_charts
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, includes_zero

SHOWN = 5
"""Layers that are explained at most."""

COARSE = 1.25
"""Times that a step must be finer than before to be worth a sentence."""


@dataclass(frozen=True)
class Why:
    """One layer. effect: in words, with its interval. sentences: one for each range or bias that
    was found for it. channels: ranges of its weights, or of what it reads, the widest first, as
    shares of that; empty where there is one range, or was one for each channel before."""

    unit: str
    effect: str
    sentences: tuple[str, ...]
    channels: tuple[float, ...]


def reasons(data: ReportData) -> tuple[Why, ...]:
    """The most sensitive layers that other ranges or biases were found for, in the order of the
    chart; not those whose effect may be nothing."""
    found = {one.unit: one for one in data.ranges}
    effects = {one.unit: one for one in data.effects}
    order = [effects[row.name] for chart in effect_charts(data) for row in chart.rows]
    clear = [one for one in order if not includes_zero(one.effect)][:SHOWN]
    rows = [_why(data, effect, found[effect.unit]) for effect in clear if effect.unit in found]
    return tuple(row for row in rows if row.sentences)


def _why(data: ReportData, effect: Effect, found: Recalibrated) -> Why:
    roles = {quantizer.name: quantizer.role for quantizer in data.quantizers}
    metric = MetricFormat(data.metric, data.full_scale)
    sentences = list[str]()
    for old, new in found.pairs:
        sentences += range_sentences(old, new, roles.get(new.quantizer, "weight"))
    split = [new.amax for old, new in found.pairs if is_split(old, new)]
    channels = sorted(split[0], reverse=True) if split else []
    words = f"{metric.effect(effect)} {metric.interval(effect.effect)}".rstrip()
    shares = tuple(round(one / channels[0], 4) for one in channels)
    return Why(effect.unit, words, tuple(dict.fromkeys(sentences)), shares)


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
