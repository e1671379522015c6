"""A planner that leaves out one layer more until the target holds."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Search


class OneByOne:
    """The shortest prefix of the ranking that meets the target. Exact about prefixes, and slow
    where many are needed."""

    name = "one_by_one"

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search = Search(judge)
        for size in range(len(ranking) + 1):
            skip = tuple(ranking[:size])
            if search.met(skip):
                return search.choice(skip)
        return search.best_missed(ranking)
