"""Whether samples prove that a target holds, prove that it does not, or prove nothing yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import ndtr, ndtri

from sensitivity.records import AccuracyStatus, Estimate, Target
from sensitivity.stats.power import samples_needed, spread_of

NORMAL_95 = float(ndtri(0.975))
"""Half of a normal 95 % interval, in standard deviations."""

POWER = 0.8
"""In how many cases as many samples as are asked for shall settle it."""


def judged(shortfall: Estimate, confidence: float) -> AccuracyStatus:
    """What an estimate of how far the metric is under what the target allows says about the target.

    shortfall: <= 0 where the target holds; its interval covers 95 %, looked at once. confidence:
    the chance of the target holding from which it is "met"; "missed" where the chance of it not
    holding is as high. "not proven" otherwise, and where there is no interval.

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
    """The chance that what was estimated is at most `limit`: normal, each side of the 95 % interval
    as it is. None where there is no interval.

    >>> round(chance_below(Estimate(1.0, 0.0, 1.98, 50), 1.98), 3)
    0.975
    """
    if estimate.low is None or estimate.high is None:
        return None
    above = limit >= estimate.value
    side = estimate.high - estimate.value if above else estimate.value - estimate.low
    if side <= 0:
        return 1.0 if above else 0.0
    return float(ndtr(NORMAL_95 * (limit - estimate.value) / side))


def limit_held(estimate: Estimate, confidence: float) -> float | None:
    """The smallest limit that what was estimated is under with this chance, as `chance_below` says
    it. confidence: from 0.5 to under 1. None where there is no interval.

    >>> round(limit_held(Estimate(1.0, 0.0, 1.98, 50), 0.975), 3)
    1.98
    """
    if estimate.high is None:
        return None
    side = (estimate.high - estimate.value) / NORMAL_95
    return estimate.value + side * float(ndtri(confidence))


def combined(parts: Sequence[Estimate]) -> Estimate:
    """One estimate from estimates of the same value on samples that do not overlap, each counting
    by its samples.

    Weights that do not depend on the values keep the mean unbiased. The interval is put together
    from the two sides of each interval, which need not be alike (Zou and Donner 2008, "Construction
    of confidence limits about effect measures: a general approach", Statistics in Medicine 27). No
    interval where a part has none.

    >>> combined([Estimate(0.0, -3.0, 4.0, 50), Estimate(2.0, -2.0, 5.0, 50)])
    Estimate(value=1.0, low=-1.5, high=3.5, n=100)
    """
    n = sum(part.n for part in parts)
    value = sum(part.n / n * part.value for part in parts)
    below, above = 0.0, 0.0
    for part in parts:
        if part.low is None or part.high is None:
            return Estimate(value, None, None, n)
        below += (part.n / n * (part.value - part.low)) ** 2
        above += (part.n / n * (part.high - part.value)) ** 2
    return Estimate(value, value - math.sqrt(below), value + math.sqrt(above), n)


def widened(estimate: Estimate, other: Estimate) -> Estimate:
    """The estimate with each side of its interval at least as long as that of `other`; none where
    one has none.

    >>> widened(Estimate(1.0, 0.5, 2.0, 9), Estimate(0.0, -1.0, 0.5, 9))
    Estimate(value=1.0, low=0.0, high=2.0, n=9)
    """
    if estimate.low is None or estimate.high is None or other.low is None or other.high is None:
        return Estimate(estimate.value, None, None, estimate.n)
    below = max(estimate.value - estimate.low, other.value - other.low)
    above = max(estimate.high - estimate.value, other.high - other.value)
    return Estimate(estimate.value, estimate.value - below, estimate.value + above, estimate.n)


def samples_to_settle(shortfall: Estimate, confidence: float) -> int | None:
    """About how many samples would tell the shortfall from 0 with this confidence, in 80 % of all
    cases, if it is what it was estimated as.

    None where there is no interval, and where the estimate is 0: no number of samples settles that.
    """
    spread = spread_of(shortfall)
    if spread is None or shortfall.value == 0:
        return None
    needed = samples_needed(abs(shortfall.value), spread, alpha=2 * (1 - confidence))
    return max(needed, shortfall.n)


def more_to_settle(shortfall: Estimate, spread: float, confidence: float) -> int | None:
    """The same for an estimate that knows more than its own samples say: how many labelled samples
    more.

    spread: standard deviation of the per-sample differences. What new samples add to what is known
    is their number over the square of it.

    >>> more_to_settle(Estimate(-0.005, -0.0148, 0.0048, 300), 0.25, 0.8)
    4584
    """
    if shortfall.value == 0 or shortfall.low is None or shortfall.high is None:
        return None
    needed = (ndtri(confidence) + ndtri(POWER)) / shortfall.value
    known = 2 * NORMAL_95 / (shortfall.high - shortfall.low)
    return max(math.ceil(spread**2 * (needed**2 - known**2)), 0)


def shortfall(target: Target, float_: Estimate, level: Estimate, drop: Estimate) -> Estimate:
    """How far a plan is under what the target allows; <= 0 where the target holds.

    float_, level, drop: of float, of the plan, and float minus plan (paired), all on the same
    samples. A target that is relative to float is known no better than float: the interval is
    widened by the most that this can add.
    """
    if target.metric is not None:
        return _under(target.metric, level)
    allowed = float_.value - target.floor(float_.value)
    missing = Estimate(
        drop.value - allowed, _less(drop.low, allowed), _less(drop.high, allowed), drop.n
    )
    if target.relative is None or missing.low is None or missing.high is None:
        return missing
    doubt = 0.0
    if float_.low is not None and float_.high is not None:
        doubt = target.relative * (float_.high - float_.low) / 2
    return Estimate(missing.value, missing.low - doubt, missing.high + doubt, missing.n)


def corrected_level(level: Estimate, float_: Estimate, drop: Estimate) -> Estimate:
    """The level of a plan moved by as much as its drop was corrected for choosing, so that float
    minus level is `drop`."""
    by = float_.value - drop.value - level.value
    low = None if level.low is None else level.low + by
    high = None if level.high is None else level.high + by
    return Estimate(level.value + by, low, high, level.n)


def less(level: Estimate, drop: Estimate) -> Estimate:
    """One estimate less another on much the same samples; its interval is as wide as if they were
    independent, which is wider than it has to be.

    >>> less(Estimate(5.0, 2.0, 8.0, 50), Estimate(1.0, -3.0, 5.0, 50))
    Estimate(value=4.0, low=-1.0, high=9.0, n=50)
    """
    value = level.value - drop.value
    if level.low is None or level.high is None or drop.low is None or drop.high is None:
        return Estimate(value, None, None, level.n)
    below = math.hypot(level.value - level.low, drop.high - drop.value)
    above = math.hypot(level.high - level.value, drop.value - drop.low)
    return Estimate(value, value - below, value + above, level.n)


def _under(floor: float, level: Estimate) -> Estimate:
    low = None if level.high is None else floor - level.high
    high = None if level.low is None else floor - level.low
    return Estimate(floor - level.value, low, high, level.n)


def _less(value: float | None, by: float) -> float | None:
    return None if value is None else value - by
