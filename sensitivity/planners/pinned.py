"""Units that a user has decided about: left out of every plan, or of none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sensitivity.planners.base import Choice, Goal, Judge, Planner


class PinnedPlanner:
    """Another planner's search over the units that are free. skip: left out in every set tried; keep: in none."""

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
        free = [unit for unit in ranking if unit not in self._fixed]
        choice = self._planner.choose(free, lambda skip: judge(whole(skip)), goal)
        path = tuple(replace(step, skip=whole(step.skip)) for step in choice.path)
        ms = {whole(skip): time for skip, time in choice.ms.items()}
        return replace(choice, skip=whole(choice.skip), path=path, ms=ms)
