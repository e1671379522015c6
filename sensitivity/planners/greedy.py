"""Greedy over the ranking: bisection for the shortest prefix that meets the target, then prune
back."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search, Skip, without

REACH = 16
"""This many units are tried one at a time where a longer prefix turned out worse."""


class GreedyPlanner:
    """Skips the most sensitive units first.

    Bisection takes log2(N) tries and assumes that a longer prefix is not worse; where the tries
    show otherwise, units are added one at a time as well, and those that lower the metric left in
    INT8. Prune-back then returns to INT8, least sensitive first, every unit of the prefix that the
    target does not need.
    """

    name = "greedy"

    def __init__(self, *, prefix: bool = False) -> None:
        """prefix: the answer is the shortest prefix as bisection finds it. Which of many units
        could go back is then not asked: on few samples that fits the set to them."""
        self._prefix = prefix

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        return self.searched(ranking, Search(judge), goal)

    def searched(self, ranking: Sequence[str], search: Search, goal: Goal) -> Choice:
        """Return the same in a search that may go on afterwards."""
        low, high = 0, len(ranking)
        if search.met(()):
            return search.choice(())
        if not search.met(tuple(ranking)):
            return search.best_missed(ranking)
        # Galloping before bisection: the answer is usually a short prefix.
        step = 1
        while step < high and not search.met(tuple(ranking[:step])):
            low, step = step, step * 2
        found = bisected(ranking, search, low, min(step, high))
        if self._prefix:
            return search.choice(found)
        if search.not_monotone():
            found = climbed(ranking, search, len(found)) or found
        return search.choice(pruned(found, search))


def climbed(ranking: Sequence[str], search: Search, fewer: int) -> tuple[str, ...] | None:
    """Return a set of fewer units that meets the target, by adding one at a time and undoing what
    lowers the metric.

    For a path on which more is not always better. Looks at the first REACH units; None where it
    finds nothing.
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


def bisected(order: Sequence[str], search: Search, low: int, high: int) -> Skip:
    """Return the shortest prefix that meets the target, by bisection: that of `high` units meets
    it, that of `low` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        if search.met(tuple(order[:middle])):
            high = middle
        else:
            low = middle
    return tuple(order[:high])


def pruned(prefix: Sequence[str], search: Search) -> tuple[str, ...]:
    """Return the prefix without the units that the target does not need, tried from its end.

    The last unit of the prefix is taken to be needed: the prefix without it missed the target.
    """
    kept = tuple(prefix)
    for unit in reversed(prefix[:-1]):
        smaller = without(kept, unit)
        if search.met(smaller):
            kept = smaller
    return kept
