"""Greedy search over the ranking: bisection finds the shortest prefix that meets the target, and
pruning returns its needless units to INT8."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search, Skip, without

REACH = 16
"""Number of units that are tried one at a time if a longer prefix turned out worse than a shorter
one."""


class GreedyPlanner:
    """Planner that leaves out the most sensitive units first.

    Bisection takes log2(N) tries and assumes that a longer prefix is not worse. If the tries show
    otherwise, units are also added one at a time, and those that lower the metric stay in INT8.
    Pruning then returns to INT8, least sensitive first, every unit of the prefix that the target
    does not need.
    """

    name = "greedy"

    def __init__(self, *, prefix: bool = False) -> None:
        """Set how far the answer is pruned.

        prefix: whether to return the shortest prefix as bisection finds it. Pruning many units on
            few samples would fit the set to those samples.
        """
        self._prefix = prefix

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        return self.searched(ranking, Search(judge), goal)

    def searched(self, ranking: Sequence[str], search: Search, goal: Goal) -> Choice:
        """Return the choice, like `choose`, within a search that may go on afterwards."""
        low, high = 0, len(ranking)
        if search.met(()):
            return search.choice(())
        if not search.met(tuple(ranking)):
            return search.best_missed(ranking)
        # Prefixes are doubled before bisection, because the answer is usually a short prefix.
        step = 1
        while step < high and not search.met(tuple(ranking[:step])):
            low, step = step, step * 2
        chosen = bisected(ranking, search, low, min(step, high))
        if self._prefix:
            return search.choice(chosen)
        if search.not_monotone():
            chosen = climbed(ranking, search, len(chosen)) or chosen
        return search.choice(pruned(chosen, search))


def climbed(ranking: Sequence[str], search: Search, fewer: int) -> tuple[str, ...] | None:
    """Return a set of fewer units that meets the target, or None if none is found.

    Units are added one at a time, and a unit that lowers the metric is left in INT8. This is for a
    path on which more units are not always better.

    ranking: unit names, most sensitive first; only the first REACH are tried.
    fewer: number of units that the set has to stay below.
    """
    kept: tuple[str, ...] = ()
    for unit in ranking[:REACH]:
        if search.met(kept):
            return kept
        if len(kept) + 1 >= fewer:
            return None
        if search.step((*kept, unit)).metric >= search.step(kept).metric:
            kept = (*kept, unit)
    return kept if search.met(kept) else None


def bisected(order: Sequence[str], search: Search, low: int, high: int, near: float = 0.0) -> Skip:
    """Return the shortest prefix that meets the target, by bisection.

    low, high: prefix lengths; the prefix of `low` units misses the target, that of `high` units
        meets it.
    near: fraction by which the answer may be longer than the shortest one.
    """
    while high - low > max(1, near * high):
        middle = (low + high) // 2
        if search.met(tuple(order[:middle])):
            high = middle
        else:
            low = middle
    return tuple(order[:high])


def pruned(prefix: Sequence[str], search: Search) -> tuple[str, ...]:
    """Return the prefix without the units that the target does not need, tried from its end.

    The last unit of the prefix counts as needed: the prefix without it missed the target.
    """
    kept = tuple(prefix)
    for unit in reversed(prefix[:-1]):
        smaller = without(kept, unit)
        if search.met(smaller):
            kept = smaller
    return kept
