"""The lowest cost for the accuracy: integer programs over what the judged sets have taught, each
answer judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from sensitivity.planners.base import Choice, Goal, Judge, Search
from sensitivity.planners.culprits import CulpritPlanner
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.loss_model import Posterior, first_guess, fitted
from sensitivity.planners.program import Program

TRIES = 80
"""Sets to judge after the greedy ones: each costs up to a pass over `confirm`."""

PATIENCE = 40
"""Misses in a row after which the search ends, once it has a plan."""

CHEAPER = 1e-3
"""Part of the cost by which a set must be cheaper to be worth judging."""

DOUBT = (0.0, 1.0, 2.0)
"""How much optimism a program is given, in errors of the model: what seems allowed first, then what
might be."""

HOPE = 2.0
"""Standard deviations by which the model may be wrong about a set for it to be worth judging."""

PARTS = (0.5, 0.75, 0.9)
"""Cost limits for the surest set, tried in turn, as fractions of the gap between the cheapest set
tried and the best plan so far."""

CHEAPEST, SMALLEST, FINALISTS = 21, 3, 6
"""Sets whose whole engine is measured: those that the model calls cheapest, and those of fewest
units, for where it errs. The fastest of them are measured again, several times."""

ALIKE = 0.01
"""Part of an engine's time by which two builds of one file differ: of sets no further apart the
smallest is taken."""


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
        met = [step.skip for step in search.path if step.met]
        skips = sorted(met, key=goal.cost_of)
        ms = probed(skips, goal)
        best = _fastest(ms) if ms else skips[0]

        def ordered(skip: Collection[str]) -> tuple[str, ...]:
            return tuple(unit for unit in ranking if unit in skip)

        measured = {ordered(skip): time for skip, time in ms.items()}
        return replace(search.choice(ordered(best)), ms=measured)

    def _improve(self, ranking: Sequence[str], search: Search, goal: Goal) -> None:
        program = Program(tuple(ranking), goal.cost, goal.after)
        whole = goal.start - search.step(()).metric
        guess = first_guess([goal.loss.get(unit, 0.0) for unit in ranking], whole)
        misses = 0
        for turn in range(TRIES):
            skip = self._next(program, guess, search, goal, turn)
            if skip is None or misses >= PATIENCE:
                return
            misses = 0 if search.met(skip) else misses + 1

    def _next(
        self, program: Program, guess: np.ndarray, search: Search, goal: Goal, turn: int
    ) -> tuple[str, ...] | None:
        """The set to judge; None where no cheaper one can be hoped for."""
        known = _learned(program, guess, search, goal)
        tried = [frozenset(step.skip) for step in search.path]
        cheapest = min(goal.cost_of(step.skip) for step in search.path if step.met)
        least = min(goal.cost_of(step.skip) for step in search.path)
        below = cheapest - CHEAPER * abs(cheapest) + (0.0 if search.met(()) else _error(goal))
        limit = least + PARTS[turn // 2 % len(PARTS)] * (cheapest - least)
        allowed = goal.start - goal.floor
        allowing = (
            program.cheapest(known.weights, allowed + one * known.error, tried, below)
            for one in DOUBT
        )
        limited = (program.surest(known.weights, tried, one) for one in (min(limit, below), below))
        asked = chain(limited, allowing) if turn % 2 else chain(allowing, limited)
        return next(
            (
                skip
                for skip in asked
                if skip is not None and _may_meet(program, known, skip, allowed)
            ),
            None,
        )


def _may_meet(program: Program, known: Posterior, skip: Sequence[str], allowed: float) -> bool:
    quantized = _quantized(program, [skip])
    (loss,), (doubt,) = known.weights.loss(quantized), known.doubt(quantized)
    return bool(loss - HOPE * doubt <= allowed)


def _learned(program: Program, guess: np.ndarray, search: Search, goal: Goal) -> Posterior:
    quantized = _quantized(program, [step.skip for step in search.path])
    losses = np.array([goal.start - step.metric for step in search.path])
    return fitted(guess, quantized, losses)


def _quantized(program: Program, skips: Sequence[Sequence[str]]) -> np.ndarray:
    """bool[sets, units]: what each of these sets leaves in INT8."""
    return np.array([[unit not in skip for unit in program.units] for skip in skips])


def _error(goal: Goal) -> float:
    """By how much a set may cost more than the best one and be worth judging: the error of the cost
    where engines will tell; 0 elsewhere, for then nothing but the cost decides."""
    return goal.cost.error if goal.cost and goal.probe else 0.0


def probed(skips: Sequence[tuple[str, ...]], goal: Goal) -> dict[tuple[str, ...], float]:
    """Milliseconds of the whole engine for some of these sets, cheapest first; empty where engines
    are not measured."""
    if goal.probe is None:
        return {}
    chosen = list(dict.fromkeys([*skips[:CHEAPEST], *sorted(skips, key=len)[:SMALLEST]]))
    if len(chosen) > FINALISTS:
        first = dict(zip(chosen, goal.probe(chosen), strict=True))
        fastest = sorted(chosen, key=first.__getitem__)[:FINALISTS]
        chosen = [skip for skip in chosen if skip in fastest or not skip]
    return dict(zip(chosen, goal.probe(chosen), strict=True))


def _fastest(ms: Mapping[tuple[str, ...], float]) -> tuple[str, ...]:
    """The smallest of the sets that are as fast as the fastest: of many engines some look faster by
    luck."""
    least = min(ms.values())
    return min(
        (skip for skip in ms if ms[skip] * (1 - ALIKE) <= least),
        key=lambda skip: (len(skip), ms[skip]),
    )
