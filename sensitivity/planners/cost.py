"""The lowest cost for the accuracy: integer programs over what the judged sets have taught, each
answer judged."""

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
"""Sets to judge after the greedy ones: each costs up to a pass over `confirm`."""

PATIENCE = 40
"""Misses in a row after which the search ends, once it has a plan."""

CHEAPER = 1e-3
"""A set is worth judging where it is cheaper by at least this fraction of the cost."""

DOUBT = (0.0, 1.0, 2.0)
"""Errors of the model that the program may add to the allowed loss, tried in turn: first what the
model allows, then what it may be wrong to forbid."""

HOPE = 2.0
"""A set is worth judging where it meets the target if the model is wrong about it by this many
standard deviations."""

PARTS = (0.5, 0.75, 0.9)
"""Cost limits for the surest set, tried in turn, as fractions of the gap between the cheapest set
tried and the best plan so far."""

CHEAPEST, SMALLEST, FINALISTS = 21, 3, 6
"""How many sets have their whole engine measured: those that the cost model calls cheapest, and
those of fewest units, because the model may err. So many of the fastest are measured again, several
times."""

ALIKE = 0.01
"""Fraction of an engine's time by which two builds of one file differ. Of sets that are no further
apart the smallest is taken."""


class CostPlanner:
    """Asks for the cheapest set that the model of the loss allows, judges it, learns, and asks
    again; in every other turn for the set of a limited cost that it allows most surely, since the
    cheapest allowed is the one most likely to miss.

    It begins with what greedy tries, so its answer never costs more than greedy's, unless engines
    are measured: they decide then. Where effects do not add up a set that was thought to meet the
    target misses it: the set is barred, and the interaction it shows becomes the weight of pairs of
    units (`loss_model`). It ends when no cheaper set can be hoped for, or after TRIES sets. A plan
    is met only where the judge said so on all of `confirm`.
    """

    name = "cost"
    wants_cost = True

    def __init__(self, begin: CulpritPlanner | GreedyPlanner | None = None) -> None:
        """begin: whose search it goes on from; greedy's by default."""
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
    """What a program is asked for when these sets were judged. known: what they have taught."""

    program: Program
    goal: Goal
    search: Search
    known: Posterior

    @property
    def allowed(self) -> float:
        """The largest loss that meets the target."""
        return self.goal.start - self.goal.floor

    def answers(self, turn: int) -> Iterator[Skip]:
        """Yield the sets to judge, the most wanted first: cheap ones first in even turns, sure ones
        in odd ones."""
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
        """Return whether the model may be wrong about the set by as much as it misses the
        target."""
        quantized = _quantized(self.program, [skip])
        (loss,), (doubt,) = self.known.weights.loss(quantized), self.known.doubt(quantized)
        return bool(loss - HOPE * doubt <= self.allowed)

    def _costs(self) -> tuple[float, float]:
        """Of the cheapest set that met the target, and of the cheapest that was tried."""
        cheapest = min(map(self.goal.cost_of, self.search.plans))
        least = min(map(self.goal.cost_of, self.search.tried))
        return cheapest, least

    def _cheap(self, below: float) -> Iterator[Skip | None]:
        """Yield the cheapest sets that the model allows, with more optimism each time."""
        known, tried = self.known, self._tried()
        for optimism in DOUBT:
            allowed = self.allowed + optimism * known.error
            yield self.program.cheapest(known.weights, allowed, tried, below)

    def _sure(self, limits: Sequence[float]) -> Iterator[Skip | None]:
        """Yield the sets that the model says lose least, each below one of these costs."""
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
    """bool[sets, units]: what each of these sets leaves in INT8."""
    return np.array([[unit not in skip for unit in program.units] for skip in skips])


def _error(goal: Goal) -> float:
    """By how much a set may cost more than the best one and be worth judging: the error of the cost
    where engines will tell; 0 elsewhere, for then nothing but the cost decides."""
    if goal.cost is None or goal.probe is None:
        return 0.0
    return goal.cost.error


def probed(skips: Sequence[tuple[str, ...]], goal: Goal) -> dict[tuple[str, ...], float]:
    """Return the milliseconds of the whole engine for some of these sets, cheapest first; empty
    where engines are not measured."""
    if goal.probe is None:
        return {}
    chosen = list(dict.fromkeys([*skips[:CHEAPEST], *sorted(skips, key=len)[:SMALLEST]]))
    if len(chosen) > FINALISTS:
        first = dict(zip(chosen, goal.probe(chosen), strict=True))
        fastest = sorted(chosen, key=first.__getitem__)[:FINALISTS]
        chosen = [skip for skip in chosen if skip in fastest or not skip]
    return dict(zip(chosen, goal.probe(chosen), strict=True))


def _fastest(ms: Mapping[tuple[str, ...], float]) -> tuple[str, ...]:
    """Return the smallest of the sets that are as fast as the fastest: of many engines some look
    faster by luck."""
    least = min(ms.values())
    return min(
        (skip for skip in ms if ms[skip] * (1 - ALIKE) <= least),
        key=lambda skip: (len(skip), ms[skip]),
    )
