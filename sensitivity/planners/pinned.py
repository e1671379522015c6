"""Units that a user has decided about: left out of every plan, or of none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from sensitivity.planners.base import Choice, Goal, Judge, Planner
from sensitivity.records import Border, CostModel

Whole = Callable[[Iterable[str]], tuple[str, ...]]
"""Makes a set of free units a whole skip set: with the pinned ones, in the order of the ranking."""


class PinnedPlanner:
    """Another planner's search over the units that are free. skip: left out in every set tried;
    keep: in none."""

    def __init__(self, planner: Planner, skip: Sequence[str], keep: Sequence[str]) -> None:
        self.name = planner.name
        self.searches = bool(getattr(planner, "searches", True))
        self._planner = planner
        self._skip = tuple(skip)
        self._fixed = frozenset((*skip, *keep))

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        place = {unit: index for index, unit in enumerate(ranking)}

        def whole(skip: Iterable[str]) -> tuple[str, ...]:
            return tuple(sorted((*self._skip, *skip), key=place.__getitem__))

        goal = self._of_free_units(goal, whole)
        free = [unit for unit in ranking if unit not in self._fixed]
        choice = self._planner.choose(free, lambda skip: judge(whole(skip)), goal)
        path = tuple(replace(step, skip=whole(step.skip)) for step in choice.path)
        ms = {whole(skip): time for skip, time in choice.ms.items()}
        return replace(choice, skip=whole(choice.skip), path=path, ms=ms)

    def _of_free_units(self, goal: Goal, whole: Whole) -> Goal:
        """The goal as it is for a planner that knows only the units left to decide."""
        probe, distortion = goal.probe, goal.distortion
        if probe is not None:
            goal = replace(goal, probe=lambda skips: probe([*map(whole, skips)]))
        if distortion is not None:
            goal = replace(goal, distortion=lambda skips: distortion([*map(whole, skips)]))
        if goal.cost is not None:
            goal = replace(goal, cost=given(goal.cost, self._skip, self._fixed - set(self._skip)))
        return goal


def given(cost: CostModel, skip: Collection[str], keep: Collection[str]) -> CostModel:
    """The cost of what is left to decide: of any other units it says what `cost` says of them and
    `skip` together.

    A border to a unit that is always left out is one to the outside; one to a unit that is always
    kept is cut exactly where the other end is left out.
    """
    base, units = cost.base, dict(cost.units)
    borders: list[Border] = []
    for border in cost.borders:
        open_ends = _open_ends(border, skip, keep)
        is_cut = open_ends == [""]
        if is_cut:
            base += border.cost
            continue
        if len(open_ends) == 1:
            units[open_ends[0]] += border.cost
            continue
        if any(open_ends):
            first, second = open_ends
            borders.append(Border(first, second, border.cost))
    base += sum(units.pop(name) for name in skip)
    free = {name: ms for name, ms in units.items() if name not in keep}
    return replace(cost, base=base, units=free, borders=tuple(borders))


def _open_ends(border: Border, skip: Collection[str], keep: Collection[str]) -> list[str]:
    """Ends of a border that are not always kept, units before the outside (""), where all units
    that are always left out are."""
    ends = ["" if end in skip else end for end in (border.a, border.b)]
    return sorted((end for end in ends if end not in keep), key=lambda end: not end)
