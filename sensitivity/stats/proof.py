"""Decides whether samples prove that a target holds, prove that it does not, or prove nothing
yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from sensitivity.records import AccuracyStatus, Estimate, Target
from sensitivity.stats.power import samples_needed, spread_of

NORMAL_95 = float(ndtri(0.975))
"""Half the width of a normal 95 % interval, in standard deviations."""

POWER = 0.8
"""Probability with which the recommended number of samples settles the question."""


def judged(shortfall: Estimate, confidence: float) -> AccuracyStatus:
    """Return what an estimated shortfall says about the target: "met", "missed" or "not proven".

    The shortfall is how far the metric is below what the target allows. The answer is "met" if the
    probability that the target holds is at least `confidence`, and "missed" if the probability that
    it does not hold is as high. It is "not proven" otherwise, and without an interval.

    shortfall: estimate, <= 0 if the target holds; its interval covers 95 %, looked at once.
    confidence: probability that the answer needs.

    >>> one, other = Estimate(-0.02, -0.03, -0.01, 900), Estimate(-0.02, -0.08, 0.04, 100)
    >>> judged(one, 0.8), judged(other, 0.8)
    ('met', 'not proven')
    """
    chance = chance_below(shortfall, 0.0)
    if chance is None:
        return "not proven"
    if chance >= confidence:
        return "met"
    return "missed" if chance <= 1 - confidence else "not proven"


def chance_below(estimate: Estimate, limit: float) -> float | None:
    """Return the probability that the estimated quantity is at most `limit`; None without an
    interval.

    Each side of the 95 % interval stands for a normal distribution of its own width.

    >>> round(chance_below(Estimate(1.0, 0.0, 1.98, 50), 1.98), 3)
    0.975
    """
    if not estimate.has_interval:
        return None
    below, above = estimate.sides
    is_above = limit >= estimate.value
    side = above if is_above else below
    if side <= 0:
        return float(is_above)
    return float(ndtr(NORMAL_95 * (limit - estimate.value) / side))


def limit_held(estimate: Estimate, confidence: float) -> float | None:
    """Return the smallest limit that the estimated quantity stays within with this probability;
    None without an interval.

    It is the inverse of `chance_below`.

    confidence: probability, from 0.5 to below 1.

    >>> round(limit_held(Estimate(1.0, 0.0, 1.98, 50), 0.975), 3)
    1.98
    """
    if not estimate.has_interval:
        return None
    _, above = estimate.sides
    return estimate.value + above / NORMAL_95 * float(ndtri(confidence))


def combined(parts: Sequence[Estimate]) -> Estimate:
    """Return one estimate from estimates of the same value on samples that do not overlap, each
    weighted by its number of samples.

    Weights that do not depend on the values keep the mean unbiased. The interval combines the two
    sides of each interval, which need not be equal (Zou and Donner 2008, "Construction of
    confidence limits about effect measures: a general approach", Statistics in Medicine 27). There
    is no interval if a part has none.

    >>> combined([Estimate(0.0, -3.0, 4.0, 50), Estimate(2.0, -2.0, 5.0, 50)])
    Estimate(value=1.0, low=-1.5, high=3.5, n=100)
    """
    n = sum(part.n for part in parts)
    value = sum(part.n / n * part.value for part in parts)
    sides = np.array([part.sides for part in parts])
    shares = np.array([part.n / n for part in parts])
    below, above = np.sqrt(shares**2 @ sides**2).tolist()
    return Estimate.between(value, value - below, value + above, n)


def widened(estimate: Estimate, other: Estimate) -> Estimate:
    """Return the estimate with each side of its interval at least as long as that of `other`;
    without an interval if either has none.

    >>> widened(Estimate(1.0, 0.5, 2.0, 9), Estimate(0.0, -1.0, 0.5, 9))
    Estimate(value=1.0, low=0.0, high=2.0, n=9)
    """
    value = estimate.value
    below, above = map(max, estimate.sides, other.sides)
    return Estimate.between(value, value - below, value + above, estimate.n)


def samples_to_settle(shortfall: Estimate, confidence: float) -> int | None:
    """Return about how many samples would tell the shortfall from 0 with this confidence, in 80 %
    of all cases, if the estimate is right.

    Returns None without an interval, and for an estimate of 0, which no number of samples settles.
    """
    spread = spread_of(shortfall)
    if spread is None or shortfall.value == 0:
        return None
    needed = samples_needed(abs(shortfall.value), spread, alpha=2 * (1 - confidence))
    return max(needed, shortfall.n)


def more_to_settle(shortfall: Estimate, spread: float, confidence: float) -> int | None:
    """Return how many more labelled samples would tell the shortfall from 0, for an estimate that
    knows more than its own samples say.

    Confidence and power are as in `samples_to_settle`. New samples add their number divided by the
    square of `spread` to what is known. Returns None without an interval, and for an estimate of 0.

    spread: standard deviation of the per-sample differences.

    >>> more_to_settle(Estimate(-0.005, -0.0148, 0.0048, 300), 0.25, 0.8)
    4584
    """
    if shortfall.value == 0 or not shortfall.has_interval:
        return None
    low, high = shortfall.ends
    needed = (ndtri(confidence) + ndtri(POWER)) / shortfall.value
    known = 2 * NORMAL_95 / (high - low)
    return max(math.ceil(spread**2 * (needed**2 - known**2)), 0)


def shortfall(target: Target, float_: Estimate, level: Estimate, drop: Estimate) -> Estimate:
    """Return how far a plan is below what the target allows; <= 0 if the target holds.

    A target that is relative to float is known no better than float's metric: the interval is
    widened by the most that this can add.

    float_: estimate of float's metric.
    level: estimate of the plan's metric, on the same samples.
    drop: estimate of float minus plan, paired, on the same samples.
    """
    if target.metric is not None:
        return level.under(target.metric)
    missing = drop.plus(target.floor(float_.value) - float_.value)
    if target.relative is None or not float_.has_interval:
        return missing
    low, high = missing.ends
    doubt = target.relative * sum(float_.sides) / 2
    return Estimate.between(missing.value, low - doubt, high + doubt, missing.n)


def corrected_level(level: Estimate, float_: Estimate, drop: Estimate) -> Estimate:
    """Return the level of a plan, corrected so that float minus level is `drop`.

    The drop was corrected for choosing the plan, so the level moves by as much. Above, its interval
    is at least as long as the drop allows: that of a level at the end of its scale has no length
    there, and may now extend beyond the end.

    >>> all_right, drop = Estimate(1.0, 0.985, 1.0, 250), Estimate(0.002, -0.01, 0.014, 250)
    >>> corrected_level(all_right, all_right, drop)
    Estimate(value=0.998, low=0.983, high=1.01, n=250)
    """
    value = float_.value - drop.value
    below, above = level.sides
    return Estimate.between(value, value - below, value + max(above, drop.sides[0]), level.n)


def less(level: Estimate, drop: Estimate) -> Estimate:
    """Return one estimate minus another on much the same samples.

    Its interval is as wide as for independent estimates, which is wider than necessary.

    >>> less(Estimate(5.0, 2.0, 8.0, 50), Estimate(1.0, -3.0, 5.0, 50))
    Estimate(value=4.0, low=-1.0, high=9.0, n=50)
    """
    value = level.value - drop.value
    # The difference is low where the level is low, or the drop is high.
    below, above = map(math.hypot, level.sides, reversed(drop.sides))
    return Estimate.between(value, value - below, value + above, level.n)
