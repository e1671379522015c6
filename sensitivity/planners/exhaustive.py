"""Search through every skip-set, the cheapest first: the reference for small cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from sensitivity.errors import SensitivityError
from sensitivity.planners.base import Choice, Goal, Judge, Search

LARGEST = 12
"""Largest number of choices, which is 4,096 sets. A unit is one, plus one for each format that it
may have instead of float."""


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


def check_number(units: int, wide: int = 0, fp8: int = 0) -> None:
    """Raise SensitivityError if there are too many sets.

    units: number of units up for choice.
    wide: number of them that may have 16-bit activations.
    fp8: number of them that may be in FP8.
    """
    choices = units + wide + fp8
    if choices <= LARGEST:
        return
    more = {"16 bits": wide, "FP8": fp8}
    of_which = "".join(
        f", {number} of them with the choice of {name}" for name, number in more.items() if number
    )
    raise SensitivityError(
        f"Expected at most {LARGEST} units for --planner exhaustive, or {LARGEST // 2} with one "
        f"more format in --formats, got {units}{of_which} ({2**choices:,} skip-sets); use "
        "--planner cost, or larger units."
    )
