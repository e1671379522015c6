"""Search for the few units that ruin a model: sets that the signal and the ends of the graph
suggest, pruned to the units that are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sensitivity.planners.base import (
    Choice,
    Distortion,
    Goal,
    Judge,
    Search,
    Skip,
    in_order,
    without,
)
from sensitivity.planners.greedy import bisected, pruned
from sensitivity.planners.interpolated import interpolated

END = 16
"""Number of units at an end of the graph that are left out together, at most. Few units there ruin
a model."""

ROUNDS = 3
"""Number of times, at most, that a set is ordered by how much each unit is needed and then
shortened."""

ORDERED = 64
"""Number of units, at most, of a set that is ordered by how much each unit is needed. Each unit
costs a forward pass over the samples of the signal."""

LOST = 0.5
"""Fraction of float's metric that a model may lose which has not collapsed."""

NEAR = 0.25
"""Fraction by which a set may be longer than the shortest prefix that meets the target, once the
collapse has ended. Sets of about one size are hardly told apart."""

FAR = 2.0
"""Multiple of the allowed loss that a set loses if it misses by far."""

CLOSER = 0.95
"""A larger set is worth judging if it leaves less than this fraction of the distortion that every
smaller set leaves."""


class CulpritPlanner:
    """Planner for a model whose outputs are noise when everything is in INT8.

    1. It forms sets of 1, 2, 4, ... units from the start of the ranking, and of up to END units at
       each end of the graph. It judges only sets that bring the outputs nearer to float's than
       every smaller set, the smallest first, until one meets the target.
    2. It prunes that set. Bisection finds the shortest prefix of its ranking that meets the target.
       Units then go back to INT8 in the order of the distortion that each one adds, until no more
       can go back, in at most ROUNDS rounds.

    If a set of up to END units ends the collapse but none of them meets the target, what is left is
    no search for culprits: with a signal, the shortest prefix of the ranking that meets the target
    besides these units is then searched for as in `InterpolatedPlanner`, up to NEAR. To decide on
    single units of many would fit them to few samples, so it is pruned only if the next shorter one
    misses by FAR, as if one more unit ruined the model, and if the half of it that is needed most
    is enough.

    If outputs cannot be compared, it judges all sets up to END units, and returns units to INT8 one
    at a time.
    """

    name = "culprits"

    def __init__(
        self, ends: Sequence[Sequence[str]] = (), signal: Mapping[str, float] | None = None
    ) -> None:
        """Set what the search goes by.

        ends: units of each end of the graph, the nearest first.
        signal: unit -> mean distortion of the outputs when only this unit is quantized, >= 0; None
            if the judge does not say how surely a set meets the target.
        """
        self._ends, self._signal = ends, signal

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        return self.searched(ranking, Search(judge), goal)

    def searched(self, ranking: Sequence[str], search: Search, goal: Goal) -> Choice:
        """Return the choice, like `choose`, within a search that may go on afterwards."""
        if search.met(()):
            return search.choice(())
        for skip in self._promising(ranking, goal):
            if len(skip) > END and self._signal is not None:
                culprits = _enough_to_recover(search, goal)
                if culprits is not None:
                    return self._besides(culprits, ranking, search, goal)
            if search.met(skip):
                skip = bisected(skip, search, 0, len(skip)) if goal.distortion else skip
                return search.choice(in_order(ranking, _needed(skip, search, goal)))
        return search.best_missed(ranking)

    def _besides(
        self, culprits: Skip, ranking: Sequence[str], search: Search, goal: Goal
    ) -> Choice:
        """Return the choice among the sets that leave out the culprits and a prefix of the rest."""
        rest = [unit for unit in ranking if unit not in culprits]
        found = interpolated(rest, self._signal or {}, search, goal, culprits)
        if found is None:
            return search.best_missed(ranking)
        found = bisected(found, search, _next_known(found, search), len(found), NEAR)
        shorter = search.judged(found[: _next_known(found, search)])
        if goal.start - shorter.metric > FAR * (goal.start - goal.floor):
            found = _halved(found, search, goal)
        return search.choice(in_order(ranking, found))

    def _promising(self, ranking: Sequence[str], goal: Goal) -> Iterator[Skip]:
        """Yield the sets to judge, smaller sets first and all units last."""
        sets = sorted(self._sets(ranking), key=len)
        if sets and goal.distortion is not None:
            yield from _closer(sets, goal.distortion)
        else:
            yield from sets
        yield tuple(ranking)

    def _sets(self, ranking: Sequence[str]) -> list[Skip]:
        """Return the first units of the ranking and of each end, each set twice as large as the one
        before it, with units in the order of the ranking."""
        firsts = _prefixes(ranking, len(ranking))
        ranked = set(ranking)
        for end in self._ends:
            known = [unit for unit in end if unit in ranked]
            firsts += _prefixes(known, min(len(known), END + 1))
        sets = [in_order(ranking, first) for first in firsts]
        return list(dict.fromkeys(sets))


def _enough_to_recover(search: Search, goal: Goal) -> Skip | None:
    """Return the smallest set tried with which the model has not collapsed; None if there is
    none."""
    most = LOST * abs(goal.start)
    steps = [step for step in search.path if goal.start - step.metric <= most]
    return min((step.skip for step in steps), key=len, default=None)


def _next_known(skip: Skip, search: Search) -> int:
    """Return the length of the longest shorter prefix of the set that was tried."""
    return max(size for size in range(len(skip)) if search.knows(skip[:size]))


def _prefixes(units: Sequence[str], end: int) -> list[Sequence[str]]:
    """Return the first 1, 2, 4, ... of these units, fewer than `end`."""
    powers = range(max(end - 1, 0).bit_length())
    return [units[: 2**power] for power in powers]


def _closer(sets: Sequence[Skip], distortion: Distortion) -> Iterator[Skip]:
    """Yield the sets that bring the outputs nearer to float's than every set before them."""
    least = float("inf")
    for skip, left in zip(sets, distortion(sets), strict=True):
        if left < CLOSER * least:
            least = left
            yield skip


def _needed(skip: Skip, search: Search, goal: Goal) -> Skip:
    """Return the units of a set that the target needs.

    skip: units in the order of the ranking.
    """
    if goal.distortion is None:
        return pruned(skip, search)
    if len(skip) > ORDERED:
        return skip
    for _ in range(ROUNDS):
        lost = _lost_without(skip, goal.distortion)
        shorter = _cut(sorted(skip, key=lost.__getitem__, reverse=True), search)
        if len(shorter) == len(skip):
            return skip
        skip = shorter
    return skip


def _halved(skip: Skip, search: Search, goal: Goal) -> Skip:
    """Return the units of a set that the target needs, as far as halves of it show that few are."""
    if goal.distortion is None or len(skip) > ORDERED:
        return skip
    lost = _lost_without(skip, goal.distortion)
    needed_first = sorted(skip, key=lost.__getitem__, reverse=True)
    fewer = bisected(needed_first, search, 0, len(skip), 0.5)
    return fewer if len(fewer) > END else _needed(fewer, search, goal)


def _lost_without(skip: Skip, distortion: Distortion) -> dict[str, float]:
    """Return the distortion of the outputs when each unit of the set alone goes back to INT8, by
    unit."""
    smaller = [without(skip, unit) for unit in skip]
    return dict(zip(skip, distortion(smaller), strict=True))


def _cut(order: Sequence[str], search: Search) -> Skip:
    """Return the shortest prefix that meets the target, searched from the end because mostly all of
    it is needed."""
    high, step = len(order), 1
    while step < high:
        if not search.met(tuple(order[: high - step])):
            return bisected(order, search, high - step, high)
        high, step = high - step, 2 * step
    return bisected(order, search, 0, high)
