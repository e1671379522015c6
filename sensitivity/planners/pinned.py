"""Units that a user has decided about: left out of every plan, or of none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from sensitivity.planners.base import Choice, Goal, Judge, Planner
from sensitivity.records import Border, CostModel


class PinnedPlanner:
    """Another planner's search over the units that are free. skip: left out in every set tried;
    keep: in none."""

    def __init__(self, planner: Planner, skip: Sequence[str], keep: Sequence[str]) -> None:
        self.name = planner.name
        self._planner = planner
        self._skip = tuple(skip)
        self._fixed = frozenset((*skip, *keep))

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        place = {unit: index for index, unit in enumerate(ranking)}

        def whole(skip: Iterable[str]) -> tuple[str, ...]:
            return tuple(sorted((*self._skip, *skip), key=place.__getitem__))

        probe = goal.probe
        if probe is not None:
            goal = replace(goal, probe=lambda skips: probe([whole(skip) for skip in skips]))
        distortion = goal.distortion
        if distortion is not None:
            goal = replace(
                goal, distortion=lambda skips: distortion([whole(skip) for skip in skips])
            )
        if goal.cost is not None:
            goal = replace(goal, cost=given(goal.cost, self._skip, self._fixed - set(self._skip)))
        free = [unit for unit in ranking if unit not in self._fixed]
        choice = self._planner.choose(free, lambda skip: judge(whole(skip)), goal)
        path = tuple(replace(step, skip=whole(step.skip)) for step in choice.path)
        ms = {whole(skip): time for skip, time in choice.ms.items()}
        return replace(choice, skip=whole(choice.skip), path=path, ms=ms)


def given(cost: CostModel, skip: Collection[str], keep: Collection[str]) -> CostModel:
    """The cost of what is left to decide: of any other units it says what `cost` says of them and
    `skip` together.

    A border to a unit that is always left out is one to the outside; one to a unit that is always
    kept is cut exactly where the other end is left out.
    """
    base, units = cost.base, dict(cost.units)
    borders: list[Border] = []
    for border in cost.borders:
        a, b = ("" if end in skip else end for end in (border.a, border.b))
        if (a in keep and b in keep) or a == b == "":
            continue
        if a in keep or b in keep:
            free = b if a in keep else a
            if free:
                units[free] += border.cost
            else:
                base += border.cost
        else:
            borders.append(Border(a or b, b if a else "", border.cost))
    base += sum(units.pop(name) for name in skip)
    return replace(
        cost,
        base=base,
        units={u: c for u, c in units.items() if u not in keep},
        borders=tuple(borders),
    )
