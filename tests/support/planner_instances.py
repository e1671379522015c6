"""Random small planning problems with interactions, whose best plan brute force can find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sensitivity.planners.base import Goal, Judged
from sensitivity.records import Border, CostModel, Raise


@dataclass(frozen=True, eq=False)
class Instance:
    """A loss of units and of a third of all pairs, of either sign, that levels off as accuracies
    do.

    own: float[n] loss of each unit. pairs: float[n, n]. cap: where the loss levels off. allowed: by
    the target.
    """

    units: tuple[str, ...]
    own: NDArray[np.float64]
    pairs: NDArray[np.float64]
    cap: float
    cost: CostModel
    allowed: float

    def loss(self, skip: frozenset[str]) -> float:
        quantized = np.array([unit not in skip for unit in self.units], dtype=float)
        raw = quantized @ self.own + quantized @ self.pairs @ quantized
        return float(self.cap * np.tanh(raw / self.cap))

    @property
    def ranking(self) -> list[str]:
        return sorted(self.units, key=lambda unit: -self.alone[unit])

    @property
    def alone(self) -> dict[str, float]:
        """Loss when only this unit is quantized, as a scan finds it."""
        every = frozenset(self.units)
        return {unit: max(0.0, self.loss(every - {unit})) for unit in self.units}

    @property
    def goal(self) -> Goal:
        return Goal(1 - self.allowed, 1.0, self.cost, self.alone)

    def judge(self, skip: tuple[str, ...]) -> Judged:
        metric = 1 - self.loss(frozenset(skip))
        return Judged(metric, metric >= 1 - self.allowed, 100)

    def best_cost(self) -> float:
        """By brute force over all sets."""
        sets = (
            chosen
            for size in range(len(self.units) + 1)
            for chosen in combinations(self.units, size)
        )
        return min(self.cost.of(skip) for skip in sets if self.judge(skip).met)


def with_raises(one: Instance, seed: int) -> Instance:
    """The same, with units that are to run in 16 bits if one of two others does not run in INT8:
    the later one is the model's output for the last unit."""
    rng = np.random.default_rng(seed)
    raises = tuple(
        Raise(unit, tuple(dict.fromkeys((later, str(rng.choice(one.units))))), 0.1 * price)
        for (unit, price), later in zip(one.cost.units.items(), (*one.units[1:], ""), strict=True)
    )
    return replace(one, cost=replace(one.cost, raises=raises))


def instance(seed: int, largest: int = 12) -> Instance:
    """4 to `largest` units in a chain, each with a price of its own, and a price for each
    border."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, largest + 1))
    units = tuple(f"u{index}" for index in range(n))
    own = rng.lognormal(0, 1.2, n)
    own /= own.sum()
    chosen = rng.random((n, n)) < 0.3
    pairs = np.triu(np.sqrt(np.outer(own, own)) * rng.normal(0, 0.5, (n, n)) * chosen, 1)
    borders = tuple(
        Border(a, b, float(rng.uniform(0, 0.03))) for a, b in zip(units, ("", *units), strict=False)
    )
    prices = dict(zip(units, map(float, rng.lognormal(-3, 0.8, n)), strict=True))
    cost = CostModel("table", "ms", 1.0, prices, borders)
    made = Instance(units, own, pairs, float(rng.uniform(0.4, 3)), cost, 0.0)
    allowed = max(made.loss(frozenset()), 0.01) * rng.uniform(0.05, 0.6)
    return Instance(units, own, pairs, made.cap, cost, float(allowed))
