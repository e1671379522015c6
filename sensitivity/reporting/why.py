"""Why the most sensitive layers hurt, from their repaired ranges and their quantizers' inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import median

from sensitivity.records import Effect, Range, Role
from sensitivity.reporting.charts import effect_charts
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, includes_zero
from sensitivity.reporting.histograms import WHAT, ends_of, percent
from sensitivity.reporting.kinds import is_tuned

SHOWN = 5
"""Largest number of layers that are explained, and of those left out besides."""

UNPROVEN = 3
"""Number of layers that are explained if no effect is more than chance."""

COARSE = 1.25
"""Factor by which a step must be finer than before to be worth a sentence."""


@dataclass(frozen=True)
class Why:
    """Why one layer hurts.

    effect: in words, with its interval.
    sentences: one for each range or bias that was found for it, or else one on the quantizer that
        loses most.
    channels: ranges of the channels of its weights, or of its input, as fractions of the widest,
        which comes first. Empty if there is one range, or if there was one for each channel before.
    is_shown: whether its effect is more than chance.
    """

    unit: str
    effect: str
    sentences: tuple[str, ...]
    channels: tuple[float, ...]
    is_shown: bool


def reasons(data: ReportData) -> tuple[Why, ...]:
    """Return the most sensitive layers in the order of the chart, then those that the plan leaves
    out.

    A layer whose effect may be zero is among the most sensitive only if that holds for all layers.
    """
    order = _in_order_of_charts(data)
    worst = _worst(order)
    others = [effect for effect in order if effect not in worst]
    left_out = [effect for effect in others if effect.unit in data.skip]
    explained = map(partial(_why, data), (*worst, *left_out[:SHOWN]))
    return tuple(why for why in explained if why.sentences)


def _in_order_of_charts(data: ReportData) -> list[Effect]:
    """Return the effects that are drawn, in the order of their rows."""
    effects = {effect.unit: effect for effect in data.effects}
    order = list[Effect]()
    for chart in effect_charts(data):
        order += [effects[row.name] for row in chart.rows]
    return order


def _worst(order: list[Effect]) -> list[Effect]:
    """Return the first layers whose effect is more than chance, or the first of all if there is
    none."""
    clear = [effect for effect in order if not includes_zero(effect.effect)]
    if clear:
        return clear[:SHOWN]
    return order[:UNPROVEN]


def _why(data: ReportData, effect: Effect) -> Why:
    pairs = data.repaired(effect.unit)
    sentences = _repair_sentences(data, pairs) or _loss_sentences(data, effect.unit)
    split = [new.amax for old, new in pairs if is_split(old, new)]
    channels = sorted(chain.from_iterable(split[:1]), reverse=True)
    shares = tuple(round(width / channels[0], 4) for width in channels)
    metric = MetricFormat(data.metric, data.full_scale)
    words = f"{metric.effect(effect)} {metric.interval(effect.effect)}".rstrip()
    is_shown = not includes_zero(effect.effect)
    return Why(effect.unit, words, tuple(sentences), shares, is_shown)


def _repair_sentences(data: ReportData, pairs: Iterable[tuple[Range, Range]]) -> list[str]:
    """Return what the repair of a unit says about it, each sentence once.

    pairs: its old and new ranges.
    """
    roles = {quantizer.name: quantizer.role for quantizer in data.quantizers}
    sentences = list[str]()
    for old, new in pairs:
        sentences += range_sentences(old, new, roles.get(new.quantizer, "weight"))
    return list(dict.fromkeys(sentences))


def _loss_sentences(data: ReportData, unit: str) -> list[str]:
    """Return a sentence on the quantizer of a unit that loses most, compared with all of its role.

    Returns an empty list if no distributions were kept.
    """
    owners = {name: owner.name for owner in data.units for name in owner.quantizers}
    by_role = defaultdict[Role, list[float]](list)
    own = list[tuple[float, Role]]()
    for inputs in data.quantizer_inputs:
        if inputs.on_grid is None:
            continue
        lost = inputs.on_grid.rounding + inputs.on_grid.clipping
        by_role[inputs.role].append(lost)
        if owners.get(inputs.quantizer) == unit:
            own.append((lost, inputs.role))
    if not own:
        return []
    most, role = max(own)
    usual = median(by_role[role])
    return [
        f"{WHAT[role]}: {percent(most)} of their power is lost by rounding and clipping; the "
        f"median layer loses {percent(usual)}."
    ]


def is_split(old: Range, new: Range) -> bool:
    """Return whether one range for a tensor became one for each channel."""
    has_more = len(old.amax) == 1 < len(new.amax)
    return has_more and max(new.amax) > 0


def range_sentences(old: Range, new: Range, role: Role = "weight") -> Iterator[str]:
    """Yield what another range or a corrected bias says about a quantizer.

    Yields nothing if both are as before.

    role: of the quantizer. Weights get a range per channel, and so does the input of a depthwise
        convolution that is equalized.

    >>> own, found = Range("a", "own", (6.0,)), Range("a", "mse", (2.0,))
    >>> next(range_sentences(own, found))
    'Activations: few values lie beyond 2 (mse), but the range went to 6: steps 3 times as coarse.'
    """
    if is_split(old, new):
        yield _uneven(new, "Weights" if role == "weight" else "Activations")
    elif len(old.amax) == len(new.amax) == 1:
        yield from _clipped(old, new)
    shift = max(map(abs, new.bias or (0.0,)))
    if is_tuned(new) and new.bias is not None:
        yield "Biases: fine-tuned, with those of all layers, by distillation from the float model."
    elif shift > 0:
        yield f"Biases: rounding weights moved the mean of a channel by up to {shift:.2g}."
    if new.rounding is not None:
        yield "Weights: learned rounding keeps outputs closer to float than the nearest levels do."


def _uneven(new: Range, what: str) -> str:
    """Return how different the channels of a tensor are that had one range."""
    widest, usual = max(new.amax), median(new.amax)
    times = f"{widest / usual:.3g} times" if usual > 0 else "infinitely many times"
    return (
        f"{what}: the widest of {len(new.amax)} channels reaches {widest:.3g}, the median "
        f"one {usual:.3g}. One scale for all of them makes steps {times} as coarse as the "
        "median channel needs."
    )


def _clipped(old: Range, new: Range) -> Iterator[str]:
    """Yield how much finer the steps of a whole tensor became with a narrower range."""
    before, now = _width(old), _width(new)
    if now <= 0 or before / now < COARSE:
        return
    what = "Activations" if new.axis is None else "Weights"
    yield (
        f"{what}: few values lie beyond {_ends(new)} ({new.method}), but the range went to "
        f"{_ends(old)}: steps {before / now:.2g} times as coarse."
    )


def _width(range_: Range) -> float:
    """Return the width of a range for a whole tensor, between its clipping limits."""
    low, high = ends_of(range_)
    return high - low


def _ends(range_: Range) -> str:
    """Return the ends of a range for a whole tensor, in words.

    >>> _ends(Range("a", "mse", (2.5,), low=-0.25))
    '[-0.25, 2.5]'
    """
    high = f"{range_.amax[0]:.3g}"
    if range_.low is None:
        return high
    return f"[{range_.low:.3g}, {high}]"
