"""What a planner gets and returns: the goal, the judge, the choice and the record of its search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Protocol

from sensitivity.errors import listed
from sensitivity.records import CostModel, PlanStep, cost_of
from sensitivity.registry import load

Skip = tuple[str, ...]
"""Names of units that are left unquantized together."""

Change = Callable[[Skip], Skip]
"""Function that turns the set a planner chooses into one that can be measured."""

Measure = Callable[[Sequence[Skip]], list[float]]
"""Function that returns one number for each of these skip-sets."""

Probe = Measure
"""Function that measures the whole engine with each of these skip-sets, in milliseconds."""

Distortion = Measure
"""Function that measures how far the outputs are from float's with each of these skip-sets, >= 0,
on a few samples that are not `confirm`."""


@dataclass(frozen=True)
class Goal:
    """What a plan has to reach, and what a planner may use to get there.

    floor: metric that a plan has to reach on `confirm`.
    start: metric of the float model on `confirm`.
    cost: cost model of skip-sets; None counts units.
    loss: unit -> loss from quantizing it, >= 0, on any one scale. A search starts from it but never
        relies on it.
    probe: measures whole engines; None if engines are not measured.
    distortion: compares outputs; None if outputs cannot be compared.
    by_hand: units that people leave out without measuring, see `planners.rule`.
    after: unit -> unit that has to be chosen before it; without that one it is not worth choosing.
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
        """Return the cost of a skip-set; without a cost model, the number of its units."""
        return cost_of(skip, self.cost)

    def measured_as(self, change: Change) -> Goal:
        """Return the goal for a planner whose sets are measured as `change` makes them."""
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
    """What the judge found out about one skip-set.

    metric: metric on the first n samples of `confirm`.
    met: whether the metric of the whole split is at least the floor.
    n: number of samples measured.
    error: standard error of `metric` as an estimate of the metric on the whole split; 0 if all of
        it was measured.
    part: fraction of the split that was measured.
    population_error: standard error of `metric` as an estimate of the metric of the population
        that the split was drawn from; 0 if only the split counts.
    margin: how far above the floor `metric` has to be for the set to be met with the confidence
        asked for; 0 if only the split counts.
    """

    metric: float
    met: bool
    n: int
    error: float = 0.0
    part: float = 1.0
    population_error: float = 0.0
    margin: float = 0.0


Judge = Callable[[tuple[str, ...]], Judged]
"""Function that judges a skip-set on `confirm`. A call costs up to one pass over the split, unless
the set was measured before."""


@dataclass(frozen=True)
class Choice:
    """The skip-set that a planner found, and how it got there.

    skip: unit names in ranking order.
    met: whether the set meets the target.
    path: every set tried, in order.
    notes: what the planner noticed on the way, one sentence each.
    ms: skip-set -> time of the whole engine, for the sets that were measured.
    """

    skip: tuple[str, ...]
    met: bool
    path: tuple[PlanStep, ...]
    notes: tuple[str, ...] = ()
    ms: Mapping[tuple[str, ...], float] = field(default_factory=dict)

    def changed(self, change: Change) -> Choice:
        """Return the same choice with every set turned by `change`."""
        path = tuple(replace(step, skip=change(step.skip)) for step in self.path)
        ms = {change(skip): time for skip, time in self.ms.items()}
        return replace(self, skip=change(self.skip), path=path, ms=ms)


class Planner(Protocol):
    """A search for the cheapest skip-set that meets a goal. A new planner is made, without
    arguments, for each search.

    name: what the user calls it by.

    A planner that compares skip-sets by `Goal.cost_of` also has the class attribute `wants_cost =
    True`: layers are then timed before it is asked. A planner whose answer stands, whatever else
    was judged, has `searches = False`.
    """

    name: str

    def choose(self, ranking: Sequence[str], judge: Judge, goal: Goal) -> Choice:
        """Return the cheapest skip-set found that meets the goal, or the best set tried if none
        meets it.

        ranking: unit names, most sensitive first.
        """
        ...


def wants_cost(planner: str) -> bool:
    """Return whether a planner compares skip-sets by their cost instead of their number of units.

    planner: a name in the registry.
    """
    return bool(getattr(load("planners", planner), "wants_cost", False))


def in_order(ranking: Iterable[str], units: Iterable[str]) -> Skip:
    """Return the units of a ranking that are among `units`, in the order of the ranking."""
    wanted = set(units)
    return tuple(unit for unit in ranking if unit in wanted)


def without(skip: Iterable[str], unit: str) -> Skip:
    """Return the set without this unit, which goes back to INT8."""
    return tuple(other for other in skip if other != unit)


class Search:
    """Record of the sets tried, so that no set is judged twice."""

    def __init__(self, judge: Judge) -> None:
        self.path: list[PlanStep] = []
        self._judge = judge
        self._steps: dict[frozenset[str], PlanStep] = {}
        self._judged: dict[frozenset[str], Judged] = {}

    @property
    def tried(self) -> list[Skip]:
        """Every set tried, in order."""
        return [step.skip for step in self.path]

    @property
    def plans(self) -> list[Skip]:
        """The sets tried that met the target, in order."""
        return [step.skip for step in self.path if step.met]

    def knows(self, skip: tuple[str, ...]) -> bool:
        """Return whether a set was tried."""
        return frozenset(skip) in self._steps

    def step(self, skip: tuple[str, ...]) -> PlanStep:
        """Return the step of a set, which is judged if it was not yet tried."""
        key = frozenset(skip)
        if key not in self._steps:
            judged = self._judge(skip)
            self._steps[key] = PlanStep(skip, judged.metric, judged.met, judged.n)
            self._judged[key] = judged
            self.path.append(self._steps[key])
        return self._steps[key]

    def judged(self, skip: tuple[str, ...]) -> Judged:
        """Return the judge's full answer about a set."""
        self.step(skip)
        return self._judged[frozenset(skip)]

    def met(self, skip: tuple[str, ...]) -> bool:
        """Return whether a set meets the target."""
        return self.step(skip).met

    def choice(self, skip: tuple[str, ...]) -> Choice:
        """Return a choice of this set, with everything tried so far as its path."""
        return Choice(skip, self.step(skip).met, tuple(self.path), self.not_monotone())

    def not_monotone(self) -> tuple[str, ...]:
        """Return one sentence if leaving out more units made the metric worse beyond doubt, else
        nothing.

        The sentence names the pair of tries with the largest fall; the report shows the metric of
        both. Only tries on the same samples are compared.
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
        """Return whether the larger set contains the smaller one and is worse beyond doubt."""
        is_part = set(small.skip) < set(large.skip) and small.n == large.n
        error = self.judged(large.skip).population_error
        return is_part and small.metric - large.metric > error

    def best_missed(self, ranking: Sequence[str]) -> Choice:
        """Return the best set tried, for a target that is missed even with every unit left out.

        Prefixes of 1, 2, 4, ... units are tried first.
        """
        size = 1
        while size < len(ranking):
            self.step(tuple(ranking[:size]))
            size *= 2
        best = max(self.path, key=lambda step: (step.metric, -len(step.skip)))
        return self.choice(best.skip)
