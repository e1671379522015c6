"""Finds which units belong to the top group, from scores that are still coming in. Pure functions
over arrays.

The method is successive elimination (Even-Dar, Mannor and Mansour 2006) on paired differences, with
the stopping rule of an approximately best subset (Kalyanakrishnan et al. 2012, LUCB). All units see
the samples in one random order; a unit that is out is not measured further. Any rule may decide
which unit is measured when and when to stop: the evidence holds at all numbers of samples at once,
as long as each unit's samples are the first ones of that order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.stats.sequential import ROUNDING, log_evidence

Values = NDArray[np.float64]
Indices = NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class Standing:
    """State of a race.

    order: unit indices. Those still in the race come first, by their mean, best first; then those
        out, the last to leave first.
    top: the first k of `order`.
    out: bool[units], True for units that certainly are not among the best k and need no more
        measuring.
    settled: whether no unit outside `top` can be better than one inside by more than the tolerance.
    """

    order: tuple[int, ...]
    top: tuple[int, ...]
    out: NDArray[np.bool_]
    settled: bool

    @property
    def open(self) -> tuple[int, ...]:
        """Units to measure on the next batch, most promising first; none once settled."""
        if self.settled:
            return ()
        return tuple(unit for unit in self.order if not self.out[unit])


def standing(
    scores: ArrayLike,
    k: int,
    population: int | None,
    *,
    tolerance: float = 0.0,
    alpha: float = 0.05,
    bound: float | None = 1.0,
) -> Standing:
    """Return which units belong to the best k, judged by all scores so far.

    Whatever the number of looks, with probability 1 - alpha no unit of the true best k is ever out,
    and a settled `top` lacks no unit that is better than one of its own by more than `tolerance`.
    Of equal units any may be top.

    scores: float[units, n], higher is better (a unit's baseline cancels out). Samples are in their
        random order, with NaN where not measured, which is only allowed at the end of a row.
    population: size of the split, or None (see `sequential`).
    tolerance: difference of means that does not matter.
    bound: largest |difference of two scores of one sample|; None if there is no such bound, and the
        guarantee then holds for large n only.

    Raises ValueError if k is not below the number of units, or a row has a gap or no score.
    """
    values, measured = _checked(scores, k)
    # A wrong decision needs a wrong verdict on one of the k (units - k) pairs of a true top unit
    # and another unit.
    enough = float(np.log(k * (len(values) - k) / alpha))
    race = _Race(values, measured, population, bound, enough)
    means = np.array([row[:n].mean() for row, n in zip(values, measured, strict=True)])
    out = np.array([race.is_beaten(unit, k) for unit in range(len(values))])
    order = np.lexsort((-means, -np.where(out, measured, measured.max()), out))
    top, rest = order[:k], [unit for unit in order[k:] if not out[unit]]
    settled = all(race.better(top, unit, -tolerance - ROUNDING).all() for unit in rest)
    return Standing(tuple(order.tolist()), tuple(top.tolist()), out, settled)


@dataclass(frozen=True, eq=False)
class _Race:
    values: Values
    measured: Indices
    population: int | None
    bound: float | None
    enough: float

    def is_beaten(self, unit: int, k: int) -> bool:
        """Return whether at least k units are certainly better.

        This depends on the unit's own samples only, so a unit that is out stays out.
        """
        own = self.measured[unit]
        rivals = np.flatnonzero(self.measured >= own)
        rivals = rivals[rivals != unit]
        # Only the rivals most likely to be better are asked, because the others would cost time.
        rivals = rivals[np.argsort(-self.values[rivals, :own].mean(axis=1), kind="stable")][: 2 * k]
        return len(rivals) >= k and int(self.better(rivals, unit, ROUNDING).sum()) >= k

    def better(self, rivals: Indices, unit: int, margin: float) -> NDArray[np.bool_]:
        """Return which rivals' means are certainly above this unit's mean plus `margin`, on the
        samples that all of them have."""
        shared = int(min(self.measured[unit], self.measured[rivals].min()))
        difference = self.values[rivals, :shared] - self.values[unit, :shared]
        if self.population is not None and shared == self.population:
            return np.asarray(difference.mean(axis=1) >= margin)
        evidence = log_evidence(difference, margin, self.population, bound=self.bound)
        return np.asarray(evidence.max(axis=-1) >= self.enough)


def _checked(scores: ArrayLike, k: int) -> tuple[Values, Indices]:
    """Return the scores, and the number of samples of each unit.

    Raises ValueError for a wrong shape, a gap, or a unit without a score.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not 1 <= k < len(values):
        raise ValueError(
            f"Expected scores [units, n] and 1 <= k < units, got shape {values.shape} and k = {k}."
        )
    known = ~np.isnan(values)
    measured = known.sum(axis=1)
    gaps = np.flatnonzero((np.diff(known.astype(int), axis=1) > 0).any(axis=1) | (measured == 0))
    if gaps.size:
        raise ValueError(
            "Expected each unit measured on the first samples of the order, got a gap in row "
            f"{gaps[0]}."
        )
    return values, measured
