"""Activations in 16 bits as the first way out of a unit's format: their weights stay as they are.

A unit may take two steps: to 16 bits, at a small share of what float costs, and on to float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from sensitivity.errors import ModelError
from sensitivity.measure.raced import SIGNAL_SAMPLES
from sensitivity.measure.study import Study
from sensitivity.planners.base import Choice, Goal, Judge
from sensitivity.planners.formats import FormatsPlanner
from sensitivity.quantizers.base import Recalibratable
from sensitivity.records import WIDE_SHARE, Range, Unit, wide_name
from sensitivity.search.rerank import Order
from sensitivity.signals.base import Signal

WIDE_BITS = 16

UNKNOWN = 0.5
"""Part of what a unit loses that 16 bits spare, where outputs cannot be compared."""


def wide_range(own: Range) -> Range:
    """Return the same range in steps of 16 bits."""
    return replace(own, bits=WIDE_BITS)


def wide_ranges(source: Recalibratable, units: Iterable[Unit]) -> dict[str, tuple[Range, ...]]:
    """Return what gives these units activations of 16 bits; units without activations on an integer
    grid of 8 bits or less, and with any that are not, are left out."""
    found = {}
    for unit in units:
        ranges = _of_unit(source, unit)
        if ranges:
            found[unit.name] = ranges
    return found


def _of_unit(source: Any, unit: Unit) -> tuple[Range, ...]:
    """Return the ranges of 16 bits for a unit's activations; empty where one of them cannot have
    them."""
    by_name = {quantizer.name: quantizer for quantizer in source.quantizers}
    ranges = []
    for quantizer in map(by_name.__getitem__, unit.quantizers):
        if quantizer.role == "weight":
            continue
        if quantizer.bits >= WIDE_BITS:
            return ()
        try:
            ranges.append(wide_range(source.range(quantizer.name)))
        except ModelError:  # FP8, blocks, ranges of each batch: none that could be wider
            return ()
    return tuple(ranges)


def spared_part(study: Study, signal: Signal | None) -> dict[str, float]:
    """Unit -> part of what it loses alone that 16 bits spare, 0 to 1, for those that may have them:
    by how much nearer its outputs are to float's on a few samples of `rank`."""
    unknown = dict.fromkeys(study.wide, UNKNOWN)
    if signal is None:
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


def order_of_steps(order: Order, spared: Mapping[str, float]) -> Order:
    """Return the steps of units, those first that bring most for what they cost, as for the
    knapsack problem with several choices for each item (Sinha and Zoltners 1979).

    spared: as `spared_part` has it. A unit whose first step brings less for its cost than the
    second takes both at once: what both bring for the cost of both lies between.
    """
    worth, rate = dict[str, float](), dict[str, float]()
    for unit in filter(spared.__contains__, order.units):
        whole, first = order.signal[unit], wide_name(unit)
        worth[first] = spared[unit] * whole
        rate[first] = max(worth[first] / WIDE_SHARE, whole)
    for unit in order.units:
        whole = order.signal[unit]
        worth[unit] = (1 - spared.get(unit, 0.0)) * whole
        rate[unit] = min(worth[unit] / (1 - WIDE_SHARE), whole)
    return Order(tuple(sorted(rate, key=rate.__getitem__, reverse=True)), worth)


def cheaper_with_16_bits(
    choice: Choice, order: Order, planner: FormatsPlanner, judge: Judge, goal: Goal
) -> Choice:
    """Return what a planner finds among steps, where that costs less than the choice among units,
    with all that both have tried. order: of steps."""
    found = planner.choose(order.units, judge, replace(goal, loss=order.signal))
    tried = {frozenset(step.skip): step for step in (*choice.path, *found.path)}
    is_cheaper = goal.cost_of(found.skip) < goal.cost_of(choice.skip)
    best = found if found.met and is_cheaper else choice
    same = tried.get(frozenset(best.skip), best)  # one order of names for each set
    return replace(best, skip=same.skip, path=tuple(tried.values()), ms=choice.ms)
