"""Formats other than float in place of INT8: what each is worth for a unit, and a search with them.

A unit may take several steps: to FP8 or to 16-bit activations, at a small share of float's cost,
and on to float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from sensitivity.errors import ModelError
from sensitivity.measure.raced import SIGNAL_SAMPLES
from sensitivity.measure.study import Study
from sensitivity.planners.base import Choice, Goal, Judge
from sensitivity.planners.formats import Chains, FormatsPlanner
from sensitivity.records import CostModel, fp8_name, share_of, unit_of
from sensitivity.search.rerank import Order
from sensitivity.signals.base import Signal

UNKNOWN = 0.5
"""Fraction of a unit's loss that a format spares, assumed if outputs cannot be compared."""

LEAST_PRICE = 0.01
"""Least cost of a unit in the order by worth per cost, as a fraction of the mean cost."""


def spared_fraction(study: Study, signal: Signal | None) -> dict[str, float]:
    """Return the fraction of each unit's own loss that each of its other formats spares, 0 to 1.

    The keys are those of `Study.formats`. It is measured by how much nearer the outputs are to
    float's on a few samples of `rank`.

    signal: measures how far outputs have moved; None assumes UNKNOWN.
    """
    unknown = dict.fromkeys(study.formats, UNKNOWN)
    if signal is None or not unknown:
        return unknown
    by_name = {unit.name: unit for unit in study.units}
    variants = []
    for name, ranges in study.formats.items():
        own = study.unit_variant(by_name[unit_of(name)], "enable")
        variants += [own, replace(own, ranges=frozenset(ranges))]
    try:
        moved = study.measurer.distortion(signal, variants, study.float_variant, SIGNAL_SAMPLES)
    except ModelError:
        return unknown
    means = np.array([np.mean(values) for values in moved])
    before, after = means[::2], means[1::2]
    spared = 1 - np.divide(after, before, out=np.ones_like(after), where=before > 0)
    return dict(zip(study.formats, np.clip(spared, 0.0, 1.0).tolist(), strict=True))


def chains_of(spared: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Return unit -> its formats between its own and float that are worth a step, in ascending
    order of cost.

    A format is not if a cheaper one spares as much of the loss. FP8 is not if it spares nothing: it
    is as wide as INT8.

    spared: fractions from `spared_fraction`.

    >>> from sensitivity.records import wide_name
    >>> names = wide_name("a"), fp8_name("a"), wide_name("b"), fp8_name("b")
    >>> chains_of(dict(zip(names, (0.9, 0.5, 0.4, 0.5), strict=True)))
    {'a': ('a in FP8', 'a in 16 bits'), 'b': ('b in FP8',)}
    """
    chains: dict[str, tuple[str, ...]] = {}
    for name in sorted(spared, key=share_of):
        chain = chains.get(unit_of(name), ())
        least = spared[chain[-1]] if chain else None
        if name == fp8_name(unit_of(name)):
            least = 0.0
        if least is None or spared[name] > least:
            chains[unit_of(name)] = (*chain, name)
    return chains


def order_of_steps(
    order: Order, chains: Chains, spared: Mapping[str, float], cost: CostModel | None = None
) -> Order:
    """Return the steps of the units, ordered by worth per cost.

    This is the order for the knapsack problem with several choices for each item (Sinha and
    Zoltners 1979). If a step of a unit is worth less per cost than the next one, both steps get the
    rate of the two together, which lies between.

    order: order of the units.
    chains: formats of the units between their own and float; a unit without any has a single step.
    spared: fractions from `spared_fraction` of all names in `chains`.
    cost: cost of each unit; None if all cost the same.
    """
    price = _prices(order.units, cost)
    raises = _raise_costs(order.units, cost)
    worth, rate = dict[str, float](), dict[str, float]()
    for unit in order.units:
        chain = chains.get(unit, ())
        loss = order.signal[unit]
        worths = np.diff([0.0, *map(spared.__getitem__, chain), 1.0]).tolist()
        costs = np.diff([0.0, *map(share_of, chain), 1.0]).tolist()
        costs[0] += raises[unit] / price[unit]
        for step, own, of_step in zip((*chain, unit), worths, _rates(worths, costs), strict=True):
            worth[step] = own * loss
            rate[step] = of_step * loss / price[unit]
    return Order(tuple(sorted(rate, key=rate.__getitem__, reverse=True)), worth)


def _rates(worths: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Return the worth per cost of each step, never less than that of a later one: such steps are
    taken together.

    >>> _rates([0.5, 0.4, 0.1], [0.1, 0.1, 0.8]), _rates([0.1, 0.9], [0.5, 0.5])
    ([5.0, 4.0, 0.125], [1.0, 1.0])
    """
    groups: list[list[float]] = []  # worth, cost and number of steps
    for worth, cost in zip(worths, costs, strict=True):
        groups.append([worth, cost, 1])
        while len(groups) > 1 and _rate(groups[-1]) > _rate(groups[-2]):
            last = groups.pop()
            groups[-1] = [sum(pair) for pair in zip(groups[-1], last, strict=True)]
    rates = []
    for group in groups:
        rates += [_rate(group)] * int(group[2])
    return rates


def _rate(group: Sequence[float]) -> float:
    return group[0] / group[1]


def _prices(units: Sequence[str], cost: CostModel | None) -> dict[str, float]:
    """Return the cost of each unit by itself, in proportion, and never less than a small fraction
    of the mean: a unit that costs nothing is still worth no more than it gains."""
    if cost is None:
        return dict.fromkeys(units, 1.0)
    own = {unit: max(cost.units[unit], 0.0) for unit in units}
    least = LEAST_PRICE * sum(own.values()) / max(len(own), 1)
    return {unit: max(price, least) or 1.0 for unit, price in own.items()}


def _raise_costs(units: Iterable[str], cost: CostModel | None) -> dict[str, float]:
    """Return what each unit adds to the cost of layers that have to run in 16 bits if it alone does
    not run in INT8."""
    added = dict.fromkeys(units, 0.0)
    for layer in cost.raises if cost else ():
        if "" not in layer.readers:  # otherwise it is paid by every set
            for reader in layer.readers:
                added[reader] = added.get(reader, 0.0) + layer.cost
    return added


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
