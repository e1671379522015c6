"""Search through every skip-set, the cheapest first: the reference for small cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from sensitivity.errors import SensitivityError
from sensitivity.planners.base import Choice, Goal, Judge, Search

LARGEST = 12
"""Largest number of choices, which is 4,096 sets. A unit is one, or two with 16-bit activations."""


class ExhaustivePlanner:
    """Planner that returns the first set, in order of cost, that meets the target. No cheaper set
    meets it, whatever the interactions.

    Raises SensitivityError for more than LARGEST units.
    """

    name = "exhaustive"
    wants_cost = True

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        check_number(len(ranking))
        search = Search(judge)
        sets = [
            chosen for size in range(len(ranking) + 1) for chosen in combinations(ranking, size)
        ]
        for skip in sorted(sets, key=lambda skip: (goal.cost_of(skip), len(skip))):
            if search.met(skip):
                return search.choice(skip)
        return search.best_missed(ranking)


def check_number(units: int, wide: int = 0) -> None:
    """Raise SensitivityError if there are too many sets.

    units: number of units up for choice.
    wide: number of them that may have 16-bit activations.
    """
    if units + wide <= LARGEST:
        return
    of_which = f", {wide} of them with the choice of 16 bits" if wide else ""
    raise SensitivityError(
        f"Expected at most {LARGEST} units for --planner exhaustive, or {LARGEST // 2} with "
        f"--formats int8,int16,float, got {units}{of_which} ({2 ** (units + wide):,} skip-sets); "
        "use --planner cost, or larger units."
    )
