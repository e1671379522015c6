"""Greedy over the ranking: bisection for the shortest prefix that meets the target, then prune back."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.planners.base import Choice, Evaluate
from sensitivity.records import PlanStep


class GreedyPlanner:
    """Skips the most sensitive units first.

    Bisection takes log2(N) evaluations and assumes that a longer prefix is not worse; where that does not hold the result
    still meets the target, but may not be the shortest. Prune-back then returns to INT8, least sensitive first, every
    unit of the prefix that the target does not need.
    """

    name = "greedy"

    def choose(self, ranking: Sequence[str], evaluate: Evaluate, floor: float) -> Choice:
        search = _Search(evaluate, floor)
        low, high = 0, len(ranking)
        if search.met(()):
            return search.choice(())
        if not search.met(tuple(ranking)):
            return self._best_missed(ranking, search)
        # Galloping before bisection: the answer is usually a short prefix.
        step = 1
        while step < high and not search.met(tuple(ranking[:step])):
            low, step = step, step * 2
        high = min(step, high)
        while high - low > 1:
            middle = (low + high) // 2
            if search.met(tuple(ranking[:middle])):
                high = middle
            else:
                low = middle
        return search.choice(self._pruned(ranking[:high], search))

    def _pruned(self, prefix: Sequence[str], search: _Search) -> tuple[str, ...]:
        kept = tuple(prefix)
        # The last unit is needed: the prefix without it missed the target.
        for unit in reversed(prefix[:-1]):
            without = tuple(other for other in kept if other != unit)
            if search.met(without):
                kept = without
        return kept

    def _best_missed(self, ranking: Sequence[str], search: _Search) -> Choice:
        size = 1
        while size < len(ranking):
            search.met(tuple(ranking[:size]))
            size *= 2
        best = max(search.path, key=lambda step: (step.metric, -len(step.skip)))
        return search.choice(best.skip)


class _Search:
    """Remembers what was tried, so that no set is evaluated twice."""

    def __init__(self, evaluate: Evaluate, floor: float) -> None:
        self.path: list[PlanStep] = []
        self._evaluate = evaluate
        self._floor = floor
        self._tried: dict[frozenset[str], PlanStep] = {}

    def met(self, skip: tuple[str, ...]) -> bool:
        key = frozenset(skip)
        if key not in self._tried:
            metric = self._evaluate(skip)
            self._tried[key] = PlanStep(skip, metric, metric >= self._floor)
            self.path.append(self._tried[key])
        return self._tried[key].met

    def choice(self, skip: tuple[str, ...]) -> Choice:
        step = self._tried[frozenset(skip)]
        return Choice(skip, step.metric, step.met, tuple(self.path))
