"""A planner chooses which units to leave unquantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sensitivity.records import PlanStep

Evaluate = Callable[[tuple[str, ...]], float]
"""The metric on `confirm` with these units skipped. Costly: one pass over the split, unless already measured."""


@dataclass(frozen=True)
class Choice:
    """What a planner found. skip: unit names in ranking order; metric: on `confirm`; path: every set it tried, in order."""

    skip: tuple[str, ...]
    metric: float
    met: bool
    path: tuple[PlanStep, ...]


class Planner(Protocol):
    name: str

    def choose(self, ranking: Sequence[str], evaluate: Evaluate, floor: float) -> Choice:
        """The smallest skip-set found whose metric is at least `floor`; the best one tried where none is.

        ranking: unit names, most sensitive first.
        """
        ...
