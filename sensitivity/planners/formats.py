"""Lets a planner give units 16-bit activations or FP8 before it leaves them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise

from sensitivity.planners.base import Choice, Goal, Judge, Judged, Planner, Skip
from sensitivity.records import (
    Border,
    CostModel,
    Raise,
    names_of_set,
    parts_of_set,
    share_of,
    unit_cost,
    unit_of,
)

Chains = Mapping[str, tuple[str, ...]]
"""Unit -> the names that a set has for it in the formats between its own and float, in ascending
order of cost. Units without any may be missing."""


class FormatsPlanner:
    """Planner that lets another planner choose steps instead of units.

    The first step of a unit gives it the first format of its chain, each further step the next one,
    and the last step leaves it out. A planner that knows nothing of formats then takes the cheapest
    that is enough. Steps have the names that a set has: the unit's name in a format, and the unit's
    own name for the last. Only their number counts: any single step means the first format.
    """

    def __init__(self, planner: Planner, chains: Chains) -> None:
        """Set the planner and the units with more than one step.

        planner: planner that chooses the steps.
        chains: every unit that is not in them is left out with its only step.
        """
        self.name = planner.name
        self._planner = planner
        self._chains = {unit: chain for unit, chain in chains.items() if chain}

    def choose(self, ranking: Iterable[str], judge: Judge, goal: Goal) -> Choice:
        """Return a choice whose sets are named as the judge takes them.

        ranking: steps, the most wanted first.
        goal: goal whose `loss` is by step and whose `cost` is by unit.
        """
        ranking = tuple(ranking)
        set_of = partial(set_of_steps, chains=self._chains)

        def judged(steps: Skip) -> Judged:
            return judge(set_of(steps))

        choice = self._planner.choose(ranking, judged, self._of_steps(goal, ranking))
        return choice.changed(set_of)

    def _of_steps(self, goal: Goal, ranking: Skip) -> Goal:
        """Return the goal for a planner that chooses steps.

        Engines are not measured, because the formats of an engine are those of a set and not of its
        steps.
        """
        units = dict.fromkeys(map(unit_of, ranking))
        cost = cost_of_steps(goal.cost or unit_cost(units), self._chains)
        goal = goal.measured_as(partial(set_of_steps, chains=self._chains))
        after: dict[str, str] = {}
        for unit, chain in self._chains.items():
            after |= {later: step for step, later in pairwise((*chain, unit))}
        return replace(goal, cost=cost, probe=None, after=after)


def set_of_steps(steps: Iterable[str], chains: Chains) -> Skip:
    """Return the set that these steps make. Its names are in the order of the steps, the last
    steps of units first."""
    steps = sorted(steps, key=share_of, reverse=True)
    names = []
    for unit, taken in Counter(map(unit_of, steps)).items():
        names.append((*chains.get(unit, ()), unit)[taken - 1])
    return names_of_set(*parts_of_set(names))


def cost_of_steps(cost: CostModel, chains: Chains) -> CostModel:
    """Return the cost model of single steps.

    A format costs its share of a unit's cost; each step costs what it adds. Borders and raises are
    paid with the first step.
    """
    steps = dict(cost.units)
    for unit, chain in chains.items():
        paid = 0.0
        for step in chain:
            steps[step] = (share_of(step) - paid) * cost.units[unit]
            paid = share_of(step)
        steps[unit] = (1 - paid) * cost.units[unit]

    def first(unit: str) -> str:
        return chains.get(unit, (unit,))[0]

    borders = [Border(first(border.a), first(border.b), border.cost) for border in cost.borders]
    raises = [
        Raise(first(layer.unit), tuple(map(first, layer.readers)), layer.cost)
        for layer in cost.raises
    ]
    return replace(cost, units=steps, borders=tuple(borders), raises=tuple(raises))
