"""Search through every skip-set, the cheapest first: the reference for small cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from sensitivity.errors import SensitivityError
from sensitivity.planners.base import Choice, Goal, Judge, Search

LARGEST = 12
"""Largest number of units, which is 4,096 sets."""


class ExhaustivePlanner:
    """Planner that returns the first set, in order of cost, that meets the target. No cheaper set
    meets it, whatever the interactions.

    Raises SensitivityError for more than LARGEST units.
    """

    name = "exhaustive"
    wants_cost = True

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        if len(ranking) > LARGEST:
            raise SensitivityError(
                f"Expected at most {LARGEST} units for --planner exhaustive, got {len(ranking)} "
                f"({2 ** len(ranking):,} skip-sets); use --planner cost, or larger units."
            )
        search = Search(judge)
        sets = [
            chosen for size in range(len(ranking) + 1) for chosen in combinations(ranking, size)
        ]
        for skip in sorted(sets, key=lambda skip: (goal.cost_of(skip), len(skip))):
            if search.met(skip):
                return search.choice(skip)
        return search.best_missed(ranking)
