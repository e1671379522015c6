"""The true drop of a plan, estimated from counted answers and from how far float's own answers
moved.

A counted drop on a few hundred samples is mostly luck: of ten answers that change, some were right
before and some are right now, and only the difference counts. The *soft* drop of a sample is what
float itself expects to lose by the changed answer. It needs no label and varies little, but it is
measured by float's own beliefs, which may be too timid or too bold. All judged sets share that
fault. Together they tell how much is really lost for each point of soft drop, although the answers
of one set alone tell next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.records import Estimate
from sensitivity.stats.proof import NORMAL_95

Values = NDArray[np.float64]

BELIEF = 0.5
"""Standard deviation, before anything was counted, of the loss per point of soft drop. Its mean is
1, since a model is trained to believe what is true."""

OWN = 0.2
"""Standard deviation of a set's own deviation from the ratio of all sets, as a fraction of its soft
drop."""

FLIP = 0.25
"""Loss that float expects for an answer that no sample has shown yet, as a fraction of the full
scale."""

ANSWER = 0.03
"""Standard deviation of the error of float's belief in a changed answer, as a fraction of the full
scale; all answers of a set have the same error. Answers that change between two similar ones add
little to the soft drop and as much doubt as others."""

CONFLICT = 2.0
"""Combined standard errors by which a belief and the counted loss may differ. If more is counted
than this allows, the belief is wrong: a model that is too timid loses little soft drop when its
right answers become wrong. The opposite does not hold if one set was counted to lose less than
believed: the luckiest of many sets always is, and a model that is too bold shows in the ratio of
all sets."""


@dataclass(frozen=True)
class Ratio:
    """Loss per point of soft drop.

    value: the ratio.
    error: its standard error.
    """

    value: float = 1.0
    error: float = BELIEF


def ratio_of(counted: Sequence[ArrayLike], soft: Sequence[ArrayLike]) -> Ratio:
    """Return the ratio by all judged sets together, on top of the prior BELIEF.

    The ratio is the slope of the least-squares line through the origin. Large drops say most about
    it, and each set may be off it by OWN.

    counted: losses against float, float[n] for each set.
    soft: soft drops of the same samples, float[n] for each set. n may differ from set to set; each
        has the first samples of one split.

    Raises ValueError if counted and soft differ in length.

    >>> ratio_of([], [])
    Ratio(value=1.0, error=0.5)
    """
    sets = [_pair(lost, moved) for lost, moved in zip(counted, soft, strict=True)]
    means = np.array([moved.mean() for _, moved in sets])
    squares = float(means @ means)
    if squares <= 0:
        return Ratio()
    slope = float(means @ np.array([lost.mean() for lost, _ in sets])) / squares
    # Sets share their samples, so residuals are summed over sets before they are squared.
    left = np.zeros(max(len(lost) for lost, _ in sets))
    for mean, (lost, moved) in zip(means, sets, strict=True):
        left[: len(lost)] += mean * (lost - slope * moved) / len(lost)
    sampling = math.sqrt(float(np.sum(left**2))) / squares
    own = OWN * slope * float(np.linalg.norm(means**2)) / squares
    error = math.hypot(sampling, own)
    trust = _weight_of_counted(BELIEF, error, slope - 1.0)
    return Ratio(1.0 + trust * (slope - 1.0), math.sqrt(trust) * error)


def true_drop(
    counted: ArrayLike, soft: ArrayLike, ratio: Ratio = Ratio(), *, full_scale: float = 1.0
) -> Estimate:
    """Return the drop of one set in the population that the samples are from, with an interval that
    covers 95 %.

    The result combines the scaled soft drop and the counted drop, weighted by their errors. The
    error of the soft drop comes from the ratio, from this set (OWN), from each changed answer
    (ANSWER) and from its sampling error; that of the counted drop is its sampling error. With many
    labels the counted drop decides, with few the soft one, and if far more was lost than believed,
    the counted drop decides. The result's n is that of `counted`.

    counted: float[n], losses against float of labelled samples, n >= 1.
    soft: float[m], soft drops of these and of any other samples, labelled or not.
    ratio: loss per point of soft drop.
    full_scale: largest loss of a sample.

    Raises ValueError for no sample or a value that is not finite.

    >>> true_drop([0.0] * 99 + [1.0], [0.0] * 400 + [0.05] * 40).n
    100
    """
    lost, moved = _finite(counted), _finite(soft)
    soft_mean = float(moved.mean())
    expected = ratio.value * soft_mean
    changed = float(np.mean(moved != 0))
    doubt = math.hypot(
        soft_mean * ratio.error,
        expected * OWN,
        ratio.value * _error(moved, FLIP * full_scale),
        changed * ANSWER * full_scale,
    )
    counted_error = _error(lost, full_scale)
    difference = float(lost.mean()) - expected
    to_counted = _weight_of_counted(doubt, counted_error, max(difference, 0.0))
    value = expected + to_counted * difference
    half = NORMAL_95 * counted_error * math.sqrt(to_counted)
    return Estimate(value, value - half, value + half, len(lost))


def _weight_of_counted(doubt: float, error: float, difference: float) -> float:
    """Return the weight of the counted value against the belief, 0 to 1.

    If the two contradict each other, the doubt grows by as much as they lie too far apart.

    doubt: standard error of the belief.
    error: standard error of the counted value.
    difference: counted value minus belief.
    """
    excess = difference**2 - CONFLICT**2 * (doubt**2 + error**2)
    variance = doubt**2 + max(excess, 0.0)
    return variance / (variance + error**2)


def _error(values: Values, unseen: float) -> float:
    """Return the standard error of the mean, as if one sample more had lost `unseen`.

    Samples that all agree prove nothing without it.
    """
    n = len(values)
    variance = (float(np.sum(values**2)) + unseen**2) / (n + 1) - float(values.mean()) ** 2
    return math.sqrt(max(variance, 0.0) / n)


def _pair(lost: ArrayLike, moved: ArrayLike) -> tuple[Values, Values]:
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
