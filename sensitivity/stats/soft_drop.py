"""The true drop of a plan, estimated from counted answers and from how far float's own answers
moved.

A counted drop on a few hundred samples is mostly luck: of ten answers that change, some were right
before and some are right now, and only the difference counts. The *soft* drop of a sample is what
float itself expects to lose by the changed answer. It needs no label and varies little, but it is
measured by float's own beliefs, which may be too timid or too bold. That is a fault of float, not
of a set: the labels of all changed answers, and of those that float is nearly indifferent about,
tell together how much a changed answer really loses. The answers of one set alone tell next to
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.records import Estimate
from sensitivity.stats.proof import NORMAL_95

Values = NDArray[np.float64]

BELIEF = 0.5
"""Standard deviation, before anything was counted, of the loss per point of soft drop. Its mean is
1, since a model is trained to believe what is true."""

OFFSET = 0.06
"""Standard deviation, before anything was counted, of what a changed answer loses besides, as a
fraction of the full scale. It is about that between the small classifiers of `benchmarks/ties.py`,
which are of no model or data that plans are judged with here, without two that hardly learned
anything."""

NEAR = 0.05
"""Soft drop, as a fraction of the full scale, from which a changed answer loses the whole offset.
Of the widths 0.02, 0.05, 0.1 and 0.2 it explains most in `benchmarks/ties.py`."""

OWN = 0.2
"""Standard deviation of a set's own deviation from what all sets lose, as a fraction of its soft
drop."""

FLIP = 0.25
"""Loss that float expects for an answer that no sample has shown yet, as a fraction of the full
scale. A line that tells less of such an answer is not trusted with it."""

FAIR = 10
"""Number of answers whose losses count as spread over the full scale, besides those that were
seen. That is the spread of fair bets, and a few answers that happen to agree do not show less."""

CONFLICT = 2.0
"""Combined standard errors by which a belief and the counted loss may differ. If more is counted
than this allows, the belief is wrong: a model that is too timid loses little soft drop when its
right answers become wrong. The opposite does not hold if one set was counted to lose less than
believed: the luckiest of many sets always is, and a model that is too bold shows in the ratio of
all sets."""


def ramp(moved: Values) -> Values:
    """Return how much of the offset an answer loses, from 0 where float is indifferent between two
    answers to 1 from NEAR on, float[n].

    Which of two equal answers comes first is arbitrary, so the second one loses nothing.

    moved: float[n], soft drops as fractions of the full scale.

    >>> ramp(np.array([0.0, 0.025, 0.4])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.clip(moved / NEAR, -1.0, 1.0)


class Belief(Protocol):
    """What float's soft drops are worth. All values are fractions of the full scale, float[n]."""

    @property
    def slope(self) -> float: ...

    def believed(self, moved: Values) -> Values: ...

    def variance(self, moved: Values) -> float: ...

    def error(self, moved: Values) -> float: ...

    def counting_error(self, lost: Values) -> float: ...


@dataclass(frozen=True)
class Line:
    """Loss of a changed answer: `offset` * `ramp` of its soft drop + `slope` * its soft drop.

    offset: as a fraction of the full scale. Answers that change between two similar ones add
        little to the soft drop, and may lose as much as others.
    slope: loss per point of soft drop.
    variances: of offset and slope.
    covariance: of the two.
    """

    offset: float = 0.0
    slope: float = 1.0
    variances: tuple[float, float] = (OFFSET**2, BELIEF**2)
    covariance: float = 0.0

    def variance(self, moved: Values) -> float:
        """Return the variance of the mean loss.

        moved: float[n], soft drops as fractions of the full scale.
        """
        first, second = self.variances
        near, soft = float(ramp(moved).mean()), float(moved.mean())
        mixed = 2 * near * soft * self.covariance
        return near**2 * first + soft**2 * second + mixed

    def believed(self, moved: Values) -> Values:
        """Return what the line says of each sample's loss, float[n].

        moved: float[n], soft drops.
        """
        return np.asarray(self.offset * ramp(moved) + self.slope * moved)

    def error(self, moved: Values) -> float:
        """Return the sampling error of the mean loss, as if one more sample had lost FLIP, or what
        the line says of it if that is more.

        moved: float[n], soft drops.
        """
        unseen = max(self.offset + self.slope * FLIP, FLIP)
        return standard_error(self.believed(moved), unseen)

    def counting_error(self, lost: Values) -> float:
        """Return the sampling error of the mean of counted losses, as if one more sample had lost
        everything.

        lost: float[n], as fractions of the full scale.
        """
        return standard_error(lost, 1.0)


def line_of(
    counted: Sequence[ArrayLike], soft: Sequence[ArrayLike], *, full_scale: float = 1.0
) -> Line:
    """Return the line by all judged sets together, on top of the prior with OFFSET and BELIEF.

    It is the least-squares line through all changed answers. An answer that several sets give for
    one sample counts once. What is left over is summed over a sample before it is squared, since
    the answers of a sample share its label. All sets may be off the slope by OWN.

    counted: losses against float, float[n] for each set.
    soft: soft drops of the same samples, float[n] for each set. n may differ from set to set; each
        has the first samples of one split.
    full_scale: largest loss of a sample.

    Raises ValueError if counted and soft differ in length.

    >>> line_of([], []) == Line()
    True
    """
    sets = [paired(lost, moved) for lost, moved in zip(counted, soft, strict=True)]
    answers = np.concatenate([np.empty((0, 3)), *(_changed(*pair, full_scale) for pair in sets)])
    if not len(answers):
        return Line()
    samples, moved, lost = _once(answers).T
    # In units of the prior, both coefficients have a standard deviation of 1.
    prior = np.array([OFFSET, BELIEF])
    known = np.stack([ramp(moved), moved], axis=1) * prior
    mean, covariance = _learned(known, lost - moved, samples.astype(int))
    offset, change = (prior * mean).tolist()
    covariance *= np.outer(prior, prior)
    weights = np.array([float(moved @ moved) for _, moved in sets])
    own = (OWN * (1.0 + change)) ** 2 * float(weights @ weights) / float(weights.sum()) ** 2
    variances = float(covariance[0, 0]), float(covariance[1, 1]) + own
    return Line(offset, 1.0 + change, variances, float(covariance[0, 1]))


def _changed(lost: Values, moved: Values, full_scale: float) -> Values:
    """Return the number of the sample, the soft drop and the loss of each changed answer, as
    float[m, 3]."""
    at = np.flatnonzero(moved)
    return np.stack([at, moved[at] / full_scale, lost[at] / full_scale], axis=1)


def _once(answers: Values) -> Values:
    """Return the answers, each of a sample once. One sample's answers with the same soft drop are
    the same."""
    samples, moved, _ = answers.T
    # Probabilities that were summed in another order differ in the last digits. A soft drop is
    # within -1 and 1, so no two samples get the same number.
    numbers = samples.astype(np.int64) * 4_000_000_000 + np.round(moved * 1e9).astype(np.int64)
    _, first = np.unique(numbers, return_index=True)
    return answers[first]


def _learned(known: Values, left: Values, samples: NDArray[np.int_]) -> tuple[Values, Values]:
    """Return mean and covariance of the coefficients of `known` after `left` was seen.

    Before, they were independent, with means of 0 and standard deviations of 1. Each principal
    direction of `known` is learned on its own.

    known: float[m, k].
    left: float[m], what the coefficients explain.
    samples: int[m], number of the sample of each row.
    """
    size = known.shape[1]
    mean, covariance = np.zeros(size), np.zeros((size, size))
    spreads, directions = np.linalg.eigh(known.T @ known)
    for spread, direction in zip(spreads, directions.T, strict=True):
        value, variance = 0.0, 1.0
        if spread > 1e-9 * spreads[-1]:
            value, variance = _coefficient(known @ direction, left, samples)
        mean += value * direction
        covariance += variance * np.outer(direction, direction)
    return mean, covariance


def _coefficient(known: Values, left: Values, samples: NDArray[np.int_]) -> tuple[float, float]:
    """Return mean and variance of the one coefficient, whose prior is standard normal."""
    spread = float(known @ known)
    slope = float(known @ left) / spread
    sums = np.bincount(samples, weights=known * (left - slope * known))
    noise = (len(left) * float(sums @ sums) / spread + FAIR) / (len(left) + FAIR)
    error = noise / spread
    doubt = doubted(1.0, error, slope)
    trust = doubt / (doubt + error)
    return trust * slope, trust * error


def true_drop(
    counted: ArrayLike, soft: ArrayLike, line: Belief = Line(), *, full_scale: float = 1.0
) -> Estimate:
    """Return the drop of one set in the population that the samples are from, with an interval that
    covers 95 %.

    The belief is what the line says of the set's changed answers. Its error has parts that all sets
    share, the line and the sampling error of the changed answers, and one of this set (OWN). The
    labels of the set have helped to fit the line already. They count once more only against the
    set's own part: with very many labels the counted drop decides, and if far more was lost than
    believed, it decides too. The result's n is that of `counted`.

    counted: float[n], losses against float of labelled samples, n >= 1.
    soft: float[m], soft drops of these and of any other samples, labelled or not.
    line: loss of a changed answer.
    full_scale: largest loss of a sample.

    Raises ValueError for no sample or a value that is not finite.

    >>> true_drop([0.0] * 99 + [1.0], [0.0] * 400 + [0.05] * 40).n
    100
    """
    lost, moved = _finite(counted) / full_scale, _finite(soft) / full_scale
    expected = float(line.believed(moved).mean())
    shared = line.variance(moved) + line.error(moved) ** 2
    own = (line.slope * float(moved.mean()) * OWN) ** 2
    error = line.counting_error(lost) ** 2
    difference = float(lost.mean()) - expected
    own = doubted(shared + own, error, max(difference, 0.0)) - shared
    to_counted = own / (own + error)
    value = expected + to_counted * difference
    variance = (1 - to_counted) ** 2 * shared + to_counted * error
    half = NORMAL_95 * math.sqrt(variance)
    return Estimate(
        full_scale * value, full_scale * (value - half), full_scale * (value + half), len(lost)
    )


def doubted(doubt: float, error: float, difference: float) -> float:
    """Return the variance of a belief after something else was counted.

    If the two contradict each other, it grows by as much as they lie too far apart.

    doubt: variance of the belief.
    error: variance of the counted value.
    difference: counted value minus belief.
    """
    return doubt + max(difference**2 - CONFLICT**2 * (doubt + error), 0.0)


def standard_error(values: Values, unseen: float) -> float:
    """Return the standard error of the mean, as if one sample more had lost `unseen`.

    Samples that all agree prove nothing without it.
    """
    n = len(values)
    variance = (float(np.sum(values**2)) + unseen**2) / (n + 1) - float(values.mean()) ** 2
    return math.sqrt(max(variance, 0.0) / n)


def paired(lost: ArrayLike, moved: ArrayLike) -> tuple[Values, Values]:
    """Return losses and soft drops of the same samples as arrays float[n].

    Raises ValueError if they are not of the same samples, or a value is not finite.
    """
    pair = _finite(lost), _finite(moved)
    if len(pair[0]) != len(pair[1]):
        raise ValueError(
            f"Expected losses and soft drops of the same samples, got {len(pair[0])} and "
            f"{len(pair[1])}."
        )
    return pair


def _finite(values: ArrayLike) -> Values:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"Expected finite values float[n] with n >= 1, got shape {sample.shape}.")
    return sample
