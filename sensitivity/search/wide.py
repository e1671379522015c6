"""16-bit activations as the first alternative to INT8 for a unit; its weights stay as they are.

A unit may take two steps: to 16 bits, at a small share of float's cost, and on to float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.errors import ModelError
from sensitivity.measure.raced import SIGNAL_SAMPLES
from sensitivity.measure.study import Study
from sensitivity.planners.base import Choice, Goal, Judge
from sensitivity.planners.formats import FormatsPlanner
from sensitivity.quantizers.base import Recalibratable
from sensitivity.records import WIDE_SHARE, CostModel, Range, Unit, wide_name
from sensitivity.search.rerank import Order
from sensitivity.signals.base import Signal

WIDE_BITS = 16

PLAIN = "without corrections"
"""Method of a weight's range beside 16-bit activations, where repairs had fitted something to 8."""

UNKNOWN = 0.5
"""Fraction of a unit's loss that 16 bits spare, assumed if outputs cannot be compared."""

LEAST_PRICE = 0.01
"""Least cost of a unit in the order by worth per cost, as a fraction of the mean cost."""


def wide_range(own: Range) -> Range:
    """Return the same range in steps of 16 bits."""
    return replace(own, bits=WIDE_BITS)


def wide_ranges(source: Recalibratable, units: Iterable[Unit]) -> dict[str, tuple[Range, ...]]:
    """Return the ranges that give these units 16-bit activations, by unit.

    Left out are units without activations, and units with an activation that is not on an integer
    grid of less than 16 bits.
    """
    by_unit = {}
    for unit in units:
        ranges = _of_unit(source, unit)
        if ranges:
            by_unit[unit.name] = ranges
    return by_unit


def _of_unit(source: Any, unit: Unit) -> tuple[Range, ...]:
    """Return the 16-bit ranges of a unit's activations; empty if one of them cannot have 16
    bits."""
    by_name = {quantizer.name: quantizer for quantizer in source.quantizers}
    ranges = []
    for quantizer in map(by_name.__getitem__, unit.quantizers):
        if quantizer.role == "weight":
            continue
        if quantizer.bits >= WIDE_BITS:
            return ()
        try:
            ranges.append(wide_range(source.range(quantizer.name)))
        except ModelError:  # FP8, blocks and ranges of each batch cannot be widened
            return ()
    return tuple(ranges)


def with_plain_weights(
    wide: Mapping[str, tuple[Range, ...]], units: Iterable[Unit], ranges: Iterable[Range]
) -> dict[str, tuple[Range, ...]]:
    """Return the ranges that give units 16-bit activations, with ranges of their weights that hold
    no correction or rounding: these were fitted to the errors of activations in 8 bits.

    wide: ranges of the activations, by unit.
    ranges: ranges in force.
    """
    plain: dict[str, Range] = {}
    for fitted in ranges:
        if fitted.bias is not None or fitted.rounding is not None:
            plain[fitted.quantizer] = replace(fitted, method=PLAIN, bias=None, rounding=None)
    by_unit = {}
    for unit in units:
        if unit.name in wide:
            weights = filter(None, map(plain.get, unit.quantizers))
            by_unit[unit.name] = (*wide[unit.name], *weights)
    return by_unit


def spared_fraction(study: Study, signal: Signal | None) -> dict[str, float]:
    """Return the fraction of each unit's own loss that 16 bits spare, 0 to 1, for the units that
    may have them.

    It is measured by how much nearer the outputs are to float's on a few samples of `rank`.

    signal: measures how far outputs have moved; None assumes UNKNOWN.
    """
    unknown = dict.fromkeys(study.wide, UNKNOWN)
    if signal is None or not unknown:
        return unknown
    by_name = {unit.name: unit for unit in study.units}
    variants = []
    for name, ranges in study.wide.items():
        own = study.unit_variant(by_name[name], "enable")
        variants += [own, replace(own, ranges=frozenset(ranges))]
    try:
        moved = study.measurer.distortion(signal, variants, study.float_variant, SIGNAL_SAMPLES)
    except ModelError:
        return unknown
    means = np.array([np.mean(values) for values in moved])
    before, after = means[::2], means[1::2]
    spared = 1 - np.divide(after, before, out=np.ones_like(after), where=before > 0)
    return dict(zip(study.wide, np.clip(spared, 0.0, 1.0).tolist(), strict=True))


def order_of_steps(
    order: Order, spared: Mapping[str, float], cost: CostModel | None = None
) -> Order:
    """Return the steps of the units, ordered by worth per cost.

    This is the order for the knapsack problem with several choices for each item (Sinha and
    Zoltners 1979). If the first step of a unit is worth less per cost than the second, both steps
    get the rate of the two together, which lies between.

    order: order of the units.
    spared: fractions from `spared_fraction`; a unit without one has a single step.
    cost: cost of each unit; None if all cost the same.
    """
    price = _prices(order.units, cost)
    worth, rate = dict[str, float](), dict[str, float]()
    for unit in order.units:
        loss, part = order.signal[unit], spared.get(unit, 0.0)
        whole_rate = loss / price[unit]
        if unit in spared:
            first = wide_name(unit)
            worth[first] = part * loss
            rate[first] = max(part / WIDE_SHARE, 1.0) * whole_rate
        worth[unit] = (1 - part) * loss
        left = (1 - part) / (1 - WIDE_SHARE) if unit in spared else 1.0
        rate[unit] = min(left, 1.0) * whole_rate
    return Order(tuple(sorted(rate, key=rate.__getitem__, reverse=True)), worth)


def _prices(units: Sequence[str], cost: CostModel | None) -> dict[str, float]:
    """Return the cost of each unit by itself, in proportion, and never less than a small fraction
    of the mean: a unit that costs nothing is still worth no more than it gains."""
    if cost is None:
        return dict.fromkeys(units, 1.0)
    own = {unit: max(cost.units[unit], 0.0) for unit in units}
    least = LEAST_PRICE * sum(own.values()) / max(len(own), 1)
    return {unit: max(price, least) or 1.0 for unit, price in own.items()}


def cheaper_by_steps(
    choice: Choice, order: Order, planner: FormatsPlanner, judge: Judge, goal: Goal
) -> Choice:
    """Return the choice among steps if it costs less than the choice among units, with every set
    that both have tried.

    choice: choice among units.
    order: order of the steps.
    """
    wider = planner.choose(order.units, judge, replace(goal, loss=order.signal))
    tried = {frozenset(step.skip): step for step in (*choice.path, *wider.path)}
    is_cheaper = goal.cost_of(wider.skip) < goal.cost_of(choice.skip)
    best = wider if wider.met and is_cheaper else choice
    same = tried.get(frozenset(best.skip), best)  # one order of names for each set
    return replace(best, skip=same.skip, path=tuple(tried.values()), ms=choice.ms)
