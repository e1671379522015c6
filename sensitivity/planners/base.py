"""A planner chooses which units to leave unquantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Protocol

from sensitivity.errors import listed
from sensitivity.records import CostModel, PlanStep, cost_of

Skip = tuple[str, ...]
"""Names of units that are left out together."""

Change = Callable[[Skip], Skip]
"""Turns the set that a planner chooses into one that can be measured."""

Measure = Callable[[Sequence[Skip]], list[float]]
"""A number for each of these skip-sets."""

Probe = Measure
"""Measures the whole engine with each of these skip-sets left out, in milliseconds."""

Distortion = Measure
"""How far the outputs with each of these skip-sets left out are from float's, >= 0, on a few
samples that are not `confirm`."""


@dataclass(frozen=True)
class Goal:
    """floor: the metric to reach on `confirm`; start: float's metric there.

    cost: of a skip-set; None counts units. loss: unit -> how much quantizing it costs, >= 0, on any
    one scale: where a search begins, never what it believes. probe: None where engines are not
    measured. distortion: None where outputs cannot be compared. by_hand: units that people leave
    out without measuring, see `planners.rule`. after: unit -> the one without which it is not worth
    choosing.
    """

    floor: float
    start: float
    cost: CostModel | None = None
    loss: Mapping[str, float] = field(default_factory=dict)
    probe: Probe | None = None
    distortion: Distortion | None = None
    by_hand: Skip = ()
    after: Mapping[str, str] = field(default_factory=dict)

    def cost_of(self, skip: Sequence[str]) -> float:
        return cost_of(skip, self.cost)

    def measured_as(self, change: Change) -> Goal:
        """Return the goal of a planner whose sets are measured as `change` makes them."""
        probe = _measured_as(change, self.probe)
        distortion = _measured_as(change, self.distortion)
        return replace(self, probe=probe, distortion=distortion)


def _measured_as(change: Change, measure: Measure | None) -> Measure | None:
    if measure is None:
        return None

    def changed(skips: Sequence[Skip]) -> list[float]:
        return measure([*map(change, skips)])

    return changed


@dataclass(frozen=True)
class Judged:
    """metric: on the first n samples of `confirm`. met: whether that of the whole split is at least
    the floor.

    error: standard error of `metric` as an estimate of that on the whole split; 0 where all of it
    was measured.
    part: how much of the split was measured, n over its size. doubt: standard error of `metric` as
    an estimate of that on all data there could be; 0 where the split alone counts.
    """

    metric: float
    met: bool
    n: int
    error: float = 0.0
    part: float = 1.0
    doubt: float = 0.0


Judge = Callable[[tuple[str, ...]], Judged]
"""Judges a skip-set on `confirm`. Costly: up to one pass over the split, unless it was measured
before."""


@dataclass(frozen=True)
class Choice:
    """What a planner found. skip: unit names in ranking order; path: every set it tried, in order.

    notes: what it noticed on the way, one sentence each. ms: skip-set -> time of the whole engine,
    as far as measured.
    """

    skip: tuple[str, ...]
    met: bool
    path: tuple[PlanStep, ...]
    notes: tuple[str, ...] = ()
    ms: Mapping[tuple[str, ...], float] = field(default_factory=dict)

    def changed(self, change: Change) -> Choice:
        """Return the same choice with each set as `change` makes it."""
        path = tuple(replace(step, skip=change(step.skip)) for step in self.path)
        ms = {change(skip): time for skip, time in self.ms.items()}
        return replace(self, skip=change(self.skip), path=path, ms=ms)


class Planner(Protocol):
    """name: what the user calls it by. A planner that compares skip-sets by `Goal.cost_of` also has
    the class attribute `wants_cost = True`: layers are then timed before it is asked. One whose
    answer stands, whatever else was judged, has `searches = False`. Made without
    arguments, once for each search."""

    name: str

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        """Return the cheapest skip-set found that meets the goal; the best one tried where none
        does.

        ranking: unit names, most sensitive first.
        """
        ...


def in_order(ranking: Iterable[str], units: Iterable[str]) -> Skip:
    """Return those units of a ranking that are among `units`, in the order of the ranking."""
    wanted = set(units)
    return tuple(unit for unit in ranking if unit in wanted)


def without(skip: Iterable[str], unit: str) -> Skip:
    """Return the set with this unit back in INT8."""
    return tuple(other for other in skip if other != unit)


class Search:
    """Remembers what was tried, so that no set is judged twice."""

    def __init__(self, judge: Judge) -> None:
        self.path: list[PlanStep] = []
        self._judge = judge
        self._steps: dict[frozenset[str], PlanStep] = {}
        self._judged: dict[frozenset[str], Judged] = {}

    @property
    def tried(self) -> list[Skip]:
        """Every set that was tried, in order."""
        return [step.skip for step in self.path]

    @property
    def plans(self) -> list[Skip]:
        """The sets tried that met the target, in order."""
        return [step.skip for step in self.path if step.met]

    def step(self, skip: tuple[str, ...]) -> PlanStep:
        key = frozenset(skip)
        if key not in self._steps:
            judged = self._judge(skip)
            self._steps[key] = PlanStep(skip, judged.metric, judged.met, judged.n)
            self._judged[key] = judged
            self.path.append(self._steps[key])
        return self._steps[key]

    def judged(self, skip: tuple[str, ...]) -> Judged:
        """Return all that the judge said of a set."""
        self.step(skip)
        return self._judged[frozenset(skip)]

    def met(self, skip: tuple[str, ...]) -> bool:
        return self.step(skip).met

    def choice(self, skip: tuple[str, ...]) -> Choice:
        return Choice(skip, self.step(skip).met, tuple(self.path), self.not_monotone())

    def not_monotone(self) -> tuple[str, ...]:
        """Return a sentence where leaving more units out made the metric worse beyond doubt, for
        the pair of tries where it did most. The report shows what each of them was worth.

        Only tries on the same samples are compared.
        """
        worse = [pair for pair in permutations(self.path, 2) if self._is_worse(*pair)]
        if not worse:
            return ()
        small, large = max(worse, key=lambda pair: pair[0].metric - pair[1].metric)
        besides = f" besides {listed(small.skip, 3)}" if small.skip else ""
        added = listed(sorted(set(large.skip) - set(small.skip)), 3)
        return (
            "Leaving out more is not always better here: the accuracy on confirm falls "
            f"with {added} left out{besides}.",
        )

    def _is_worse(self, small: PlanStep, large: PlanStep) -> bool:
        """Return whether the larger set is beyond doubt worse than a smaller one that is part of
        it."""
        is_part = set(small.skip) < set(large.skip) and small.n == large.n
        return is_part and small.metric - large.metric > self.judged(large.skip).doubt

    def best_missed(self, ranking: Sequence[str]) -> Choice:
        """For a target that skipping everything misses: the best of everything tried and of
        prefixes that double."""
        size = 1
        while size < len(ranking):
            self.step(tuple(ranking[:size]))
            size *= 2
        best = max(self.path, key=lambda step: (step.metric, -len(step.skip)))
        return self.choice(best.skip)
