"""Lets a planner give units 16-bit activations before it leaves them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from sensitivity.planners.base import Choice, Goal, Judge, Judged, Planner, Skip
from sensitivity.records import (
    WIDE_SHARE,
    Border,
    CostModel,
    names_of_set,
    parts_of_set,
    unit_cost,
    wide_name,
)


class FormatsPlanner:
    """Planner that lets another planner choose steps instead of units.

    The first step of a unit gives it 16-bit activations, the second leaves it out. A planner that
    knows nothing of formats then takes 16 bits if they are enough. Steps have the names that a set
    has: `wide_name` for the first, the unit's own name for the second. Either step alone means 16
    bits.
    """

    def __init__(self, planner: Planner, wide: Collection[str]) -> None:
        """Set the planner and the units with two steps.

        planner: planner that chooses the steps.
        wide: units that may have 16 bits; every other unit is left out with its only step.
        """
        self.name = planner.name
        self._planner = planner
        self._first = {unit: wide_name(unit) for unit in wide}

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        """Return a choice whose sets are named as the judge takes them.

        ranking: steps, the most wanted first.
        goal: goal whose `loss` is by step and whose `cost` is by unit.
        """

        set_of = partial(set_of_steps, wide=self._first)

        def judged(steps: Skip) -> Judged:
            return judge(set_of(steps))

        choice = self._planner.choose(ranking, judged, self._of_steps(goal, ranking))
        return choice.changed(set_of)

    def _of_steps(self, goal: Goal, ranking: Sequence[str]) -> Goal:
        """Return the goal for a planner that chooses steps.

        Engines are not measured, because the formats of an engine are those of a set and not of its
        steps.
        """
        units, _ = parts_of_set(ranking)
        cost = cost_of_steps(goal.cost or unit_cost(units), self._first)
        goal = goal.measured_as(partial(set_of_steps, wide=self._first))
        return replace(goal, cost=cost, probe=None, after=self._first)


def set_of_steps(steps: Iterable[str], wide: Container[str]) -> Skip:
    """Return the set that these steps make.

    wide: units with two steps.
    """
    skip, in_16_bits = list[str](), list[str]()
    second, first = parts_of_set(steps)
    for unit, taken in Counter((*second, *first)).items():
        is_first = taken == 1 and unit in wide
        kind = in_16_bits if is_first else skip
        kind.append(unit)
    return names_of_set(skip, in_16_bits)


def cost_of_steps(cost: CostModel, first: Mapping[str, str]) -> CostModel:
    """Return the cost model of single steps.

    16 bits cost their share of a unit's cost, and float costs the rest. Borders are paid with the
    first step.

    first: unit -> its first step, for the units that have one.
    """
    steps = dict(cost.units)
    for unit, step in first.items():
        steps[step] = WIDE_SHARE * cost.units[unit]
        steps[unit] -= steps[step]
    borders = []
    for border in cost.borders:
        a, b = first.get(border.a, border.a), first.get(border.b, border.b)
        borders.append(Border(a, b, border.cost))
    return replace(cost, units=steps, borders=tuple(borders))
