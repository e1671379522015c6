"""A planner chooses which units to leave unquantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sensitivity.records import PlanStep


@dataclass(frozen=True)
class Goal:
    """floor: the metric to reach on `confirm`; start: float's metric there."""

    floor: float
    start: float


@dataclass(frozen=True)
class Judged:
    """metric: on the first n samples of `confirm`. met: whether that of the whole split is at least the floor."""

    metric: float
    met: bool
    n: int


Judge = Callable[[tuple[str, ...]], Judged]
"""Judges a skip-set on `confirm`. Costly: up to one pass over the split, unless it was measured before."""


@dataclass(frozen=True)
class Choice:
    """What a planner found. skip: unit names in ranking order; path: every set it tried, in order."""

    skip: tuple[str, ...]
    met: bool
    path: tuple[PlanStep, ...]


class Planner(Protocol):
    name: str

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        """The smallest skip-set found that meets the goal; the best one tried where none does.

        ranking: unit names, most sensitive first.
        """
        ...


class Search:
    """Remembers what was tried, so that no set is judged twice."""

    def __init__(self, judge: Judge) -> None:
        self.path: list[PlanStep] = []
        self._judge = judge
        self._tried: dict[frozenset[str], PlanStep] = {}

    def step(self, skip: tuple[str, ...]) -> PlanStep:
        key = frozenset(skip)
        if key not in self._tried:
            judged = self._judge(skip)
            self._tried[key] = PlanStep(skip, judged.metric, judged.met, judged.n)
            self.path.append(self._tried[key])
        return self._tried[key]

    def met(self, skip: tuple[str, ...]) -> bool:
        return self.step(skip).met

    def choice(self, skip: tuple[str, ...]) -> Choice:
        return Choice(skip, self.step(skip).met, tuple(self.path))

    def best_missed(self, ranking: Sequence[str]) -> Choice:
        """For a target that skipping everything misses: the best of everything tried and of prefixes that double."""
        size = 1
        while size < len(ranking):
            self.step(tuple(ranking[:size]))
            size *= 2
        best = max(self.path, key=lambda step: (step.metric, -len(step.skip)))
        return self.choice(best.skip)
