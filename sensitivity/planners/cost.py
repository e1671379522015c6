"""The cheapest skip-set for an accuracy target: integer programs over a loss model propose sets,
and every proposal is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from sensitivity.planners.base import Choice, Goal, Judge, Search, Skip, in_order
from sensitivity.planners.culprits import CulpritPlanner
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.loss_model import Posterior, first_guess, fitted
from sensitivity.planners.program import Program

TRIES = 80
"""Number of sets to judge after the greedy ones, at most. Each costs up to one pass over
`confirm`."""

PATIENCE = 40
"""Number of misses in a row after which the search ends, once it has a plan."""

CHEAPER = 1e-3
"""Fraction of the cost by which a set has to be cheaper to be worth judging."""

DOUBT = (0.0, 1.0, 2.0)
"""Errors of the loss model that the program may add to the allowed loss, tried in turn: first only
sets that the model allows, then sets that it may be wrong to forbid."""

HOPE = 2.0
"""Standard deviations. A set is worth judging if it meets the target when the model's loss is too
high by this many of them."""

PARTS = (0.5, 0.75, 0.9)
"""Cost limits for the surest set, tried in turn, as fractions of the gap between the cheapest set
tried and the best plan so far."""

CHEAPEST, SMALLEST, FINALISTS = 21, 3, 6
"""Numbers of sets whose whole engine is measured: the CHEAPEST by the cost model, and, because that
model may err, the SMALLEST by units. The FINALISTS are the fastest of these and are measured again,
several times."""

ALIKE = 0.01
"""Fraction by which the times of two builds of one file differ. Among sets within this fraction the
smallest is taken."""


class CostPlanner:
    """Planner for the cheapest skip-set that meets the target.

    It asks for the cheapest set that the loss model allows, judges it, fits the model to the result
    and asks again. The cheapest allowed set is also the most likely to miss, so every other turn
    asks for the set of a limited cost that the model allows most surely.

    The search starts with the sets that greedy tries, so the answer never costs more than greedy's,
    unless engines are measured: then engine times decide. If effects do not add up, a set that the
    model allows misses the target. The set is then barred, and the interaction that it shows
    becomes a weight of pairs of units (`loss_model`). The search ends if no cheaper set can be
    hoped for, or after TRIES sets. A plan is met only if the judge said so on all of `confirm`.
    """

    name = "cost"
    wants_cost = True

    def __init__(self, begin: CulpritPlanner | GreedyPlanner | None = None) -> None:
        """Set the planner whose search comes first.

        begin: planner whose search this one continues; None means greedy.
        """
        self._begin = begin or GreedyPlanner()

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        search = Search(judge)
        begun = self._begin.searched(ranking, search, goal)
        if not search.met(tuple(ranking)) and not begun.met:
            return begun
        self._improve(ranking, search, goal)
        skips = sorted(search.plans, key=goal.cost_of)
        ms = probed(skips, goal)
        best = _fastest(ms) if ms else skips[0]
        measured = {in_order(ranking, skip): time for skip, time in ms.items()}
        return replace(search.choice(in_order(ranking, best)), ms=measured)

    def _improve(self, ranking: Sequence[str], search: Search, goal: Goal) -> None:
        """Judge sets until no cheaper one can be hoped for."""
        if not ranking:  # every unit is pinned
            return
        program = Program(tuple(ranking), goal.cost, goal.after)
        whole = goal.start - search.step(()).metric
        losses = [goal.loss.get(unit, 0.0) for unit in ranking]
        guess = first_guess(losses, whole)
        misses = 0
        for turn in range(TRIES):
            asked = _Asked(program, goal, search, _learned(program, guess, search, goal))
            skip = next(filter(asked.may_meet, asked.answers(turn)), None)
            if skip is None or misses >= PATIENCE:
                return
            misses = 0 if search.met(skip) else misses + 1


@dataclass(frozen=True, eq=False)
class _Asked:
    """The questions to the program in one turn.

    known: what the sets judged so far say about the loss.
    """

    program: Program
    goal: Goal
    search: Search
    known: Posterior

    @property
    def allowed(self) -> float:
        """The largest loss that meets the target."""
        return self.goal.start - self.goal.floor

    def answers(self, turn: int) -> Iterator[Skip]:
        """Yield the sets to judge, the most wanted first: cheap sets first in even turns, sure sets
        first in odd turns."""
        cheapest, least = self._costs()
        below = cheapest - CHEAPER * abs(cheapest)
        if not self.search.met(()):
            below += _error(self.goal)
        limit = least + PARTS[turn // 2 % len(PARTS)] * (cheapest - least)
        cheap, sure = self._cheap(below), self._sure([min(limit, below), below])
        in_turn = (cheap, sure) if turn % 2 == 0 else (sure, cheap)
        for skip in chain(*in_turn):
            if skip is not None:
                yield skip

    def may_meet(self, skip: Skip) -> bool:
        """Return whether the set meets the target if the model's loss is too high by HOPE standard
        deviations."""
        quantized = _quantized(self.program, [skip])
        (loss,), (doubt,) = self.known.weights.loss(quantized), self.known.doubt(quantized)
        return bool(loss - HOPE * doubt <= self.allowed)

    def _costs(self) -> tuple[float, float]:
        """Return the cost of the cheapest set that met the target, and of the cheapest set
        tried."""
        cheapest = min(map(self.goal.cost_of, self.search.plans))
        least = min(map(self.goal.cost_of, self.search.tried))
        return cheapest, least

    def _cheap(self, below: float) -> Iterator[Skip | None]:
        """Yield the cheapest sets that the model allows, with more optimism each time; None if
        there is none."""
        known, tried = self.known, self._tried()
        for optimism in DOUBT:
            allowed = self.allowed + optimism * known.error
            yield self.program.cheapest(known.weights, allowed, tried, below)

    def _sure(self, limits: Sequence[float]) -> Iterator[Skip | None]:
        """Yield the sets with the least modelled loss, one under each of these costs; None if there
        is none."""
        tried = self._tried()
        for limit in limits:
            yield self.program.surest(self.known.weights, tried, limit)

    def _tried(self) -> list[frozenset[str]]:
        return list(map(frozenset, self.search.tried))


def _learned(program: Program, guess: np.ndarray, search: Search, goal: Goal) -> Posterior:
    quantized = _quantized(program, search.tried)
    losses = np.array([goal.start - step.metric for step in search.path])
    return fitted(guess, quantized, losses)


def _quantized(program: Program, skips: Sequence[Sequence[str]]) -> np.ndarray:
    """Return which units each of these sets leaves in INT8, bool[sets, units]."""
    return np.array([[unit not in skip for unit in program.units] for skip in skips])


def _error(goal: Goal) -> float:
    """Return by how much a set may cost more than the best one and still be worth judging.

    This is the error of the cost model if engines are measured, because their times decide later;
    otherwise 0, because only the cost decides.
    """
    if goal.cost is None or goal.probe is None:
        return 0.0
    return goal.cost.error


def probed(skips: Sequence[tuple[str, ...]], goal: Goal) -> dict[tuple[str, ...], float]:
    """Return the time of the whole engine for some of these sets, in milliseconds; empty if engines
    are not measured.

    skips: sets by cost, cheapest first.
    """
    if goal.probe is None:
        return {}
    chosen = list(dict.fromkeys([*skips[:CHEAPEST], *sorted(skips, key=len)[:SMALLEST]]))
    if len(chosen) > FINALISTS:
        first = dict(zip(chosen, goal.probe(chosen), strict=True))
        fastest = sorted(chosen, key=first.__getitem__)[:FINALISTS]
        chosen = [skip for skip in chosen if skip in fastest or not skip]
    return dict(zip(chosen, goal.probe(chosen), strict=True))


def _fastest(ms: Mapping[tuple[str, ...], float]) -> tuple[str, ...]:
    """Return the smallest of the sets that are as fast as the fastest, because some of many engines
    look faster by luck."""
    least = min(ms.values())
    return min(
        (skip for skip in ms if ms[skip] * (1 - ALIKE) <= least),
        key=lambda skip: (len(skip), ms[skip]),
    )
