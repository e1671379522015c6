"""Another planner's search where a unit may have activations of 16 bits before it is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

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
    """Lets a planner choose steps in the place of units: the first step of a unit gives it
    activations of 16 bits, the second leaves it out.

    So a planner that knows nothing of formats takes 16 bits where they are enough. Steps have the
    names that a set has: `wide_name` the first, the unit's own the second. Either of them alone is
    16 bits, whichever it is.
    """

    def __init__(self, planner: Planner, wide: Collection[str]) -> None:
        """wide: units that may have 16 bits; of the others the second step alone leaves them
        out."""
        self.name = planner.name
        self._planner = planner
        self._first = {unit: wide_name(unit) for unit in wide}

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        """ranking, goal.loss: of steps. goal.cost: of units. The choice is a set as the judge takes
        it."""

        def judged(steps: Skip) -> Judged:
            return judge(self.set_of(steps))

        choice = self._planner.choose(ranking, judged, self._of_steps(goal, ranking))
        return choice.changed(self.set_of)

    def set_of(self, steps: Iterable[str]) -> Skip:
        """Return the set that these steps make."""
        skip, wide = list[str](), list[str]()
        second, first = parts_of_set(steps)
        for unit, taken in Counter((*second, *first)).items():
            is_first = taken == 1 and unit in self._first
            kind = wide if is_first else skip
            kind.append(unit)
        return names_of_set(skip, wide)

    def _of_steps(self, goal: Goal, ranking: Sequence[str]) -> Goal:
        """Return the goal as it is for a planner that chooses steps. Engines are not measured:
        their formats are those of a set."""
        units, _ = parts_of_set(ranking)
        cost = cost_of_steps(goal.cost or unit_cost(units), self._first)
        goal = goal.measured_as(self.set_of)
        return replace(goal, cost=cost, probe=None, after=self._first)


def cost_of_steps(cost: CostModel, first: Mapping[str, str]) -> CostModel:
    """Return what single steps cost: 16 bits their share of a unit's cost, and float the rest.
    Borders are paid with the first step. first: unit -> its first step, for those that have one."""
    steps = dict(cost.units)
    for unit, step in first.items():
        steps[step] = WIDE_SHARE * cost.units[unit]
        steps[unit] -= steps[step]
    borders = []
    for border in cost.borders:
        a, b = first.get(border.a, border.a), first.get(border.b, border.b)
        borders.append(Border(a, b, border.cost))
    return replace(cost, units=steps, borders=tuple(borders))
