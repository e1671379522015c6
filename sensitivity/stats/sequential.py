"""Means that are judged after every batch: evidence and intervals that stay valid at any stopping
time.

Samples are visited in a random order fixed beforehand, without replacement. With a `population`,
the mean asked for is that of all `population` samples of the split, and at the last one it is known
exactly. `population=None` asks for the mean of the distribution that the split was drawn from.

Evidence is betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by
betting", J. R. Stat. Soc. B 86; its section on sampling without replacement) with a fixed mixture
of stakes (Cover's universal portfolio, on a grid). A gambler bets that the mean is above a
threshold. While it is not, the wealth is a supermartingale, so it exceeds 1 / alpha with
probability at most alpha, whenever one looks (Ville). If values have no known bound, a half-normal
mixture on the running variance takes the place of the bets (Robbins 1970; Waudby-Smith et al. 2024,
"Time-uniform central limit theory and asymptotic confidence sequences", Ann. Stat. 52): it is valid
for large n only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sensitivity.records import Estimate

Values = NDArray[np.float64]
Answer = Literal["at least", "below", "open"]

STAKES = 0.95 * 0.7 ** np.arange(12)
"""Shares of the wealth to bet, from 0.95 down to 0.02. The best share is about effect / variance,
which is not known beforehand; a mixture of 12 costs at most log(12) against the best of them."""

BURN_IN = 40
"""Unbounded values give no evidence before this many samples, nor while fewer than this remain,
because sums of few values are not normal."""

SHARPEST = 250
"""Number of samples at which intervals of unbounded values are about the narrowest."""

ROUNDING = 1e-9
BISECTIONS = 20


def log_evidence(
    values: ArrayLike, threshold: ArrayLike, population: int | None, *, bound: float | None = 1.0
) -> Values:
    """Return the log evidence, after each sample, that the mean of the split is above `threshold`.

    Returns float[..., n], with inf if the mean cannot be at most `threshold`. If the mean is at
    most `threshold`, the largest entry exceeds log(1 / alpha) with probability at most alpha. The
    evidence decreases as `threshold` grows.

    values: float[..., n], the first n of `population` samples in their random order; n <=
        population.
    threshold: float[...], broadcast against the leading axes.
    population: size of the split; None for the distribution that it was drawn from.
    bound: largest |value| of any sample, known beforehand (1 for a difference of scores in [0, 1]);
        None if there is no such bound.

    Raises ValueError if a value is not finite or beyond the bound, or there are more than
    `population`.

    >>> log_evidence([1.0, 1.0, -1.0], -0.5, 4).tolist()[-1]  # the mean is at least -0.25
    inf
    """
    sample = _checked(values, population, bound)
    level = np.asarray(threshold, dtype=np.float64)[..., None]
    if bound is None:
        return _half_normal(sample, level, population)
    if population is None:
        return _betting(sample + bound, level + bound, level + bound)
    # The mean that the samples not yet seen must have, before each sample and after the last, if
    # the mean of all is `threshold`.
    seen = np.concatenate(
        [np.zeros((*sample.shape[:-1], 1)), np.cumsum(sample + bound, axis=-1)], axis=-1
    )
    unseen = population - np.arange(seen.shape[-1])
    fair = (population * (level + bound) - seen) / np.maximum(unseen, 1)
    return _betting(sample + bound, fair[..., :-1], fair[..., 1:])


def lower_bound(
    values: ArrayLike, population: int | None, *, alpha: float, bound: float | None = 1.0
) -> Values:
    """Return a bound that the mean is above with probability 1 - alpha, at all n at once.

    Returns float[...], with -inf if there is no bound yet.

    values: float[..., n], as in `log_evidence`.
    population, bound: as in `log_evidence`.
    """
    sample = _checked(values, population, bound)
    mean = sample.mean(axis=-1)
    if _complete(sample, population):
        return np.asarray(mean)
    low, high = mean - (2 * bound if bound is not None else 4 * np.ptp(sample)), np.asarray(mean)
    known = np.asarray(-np.inf)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        refuted = log_evidence(sample, middle, population, bound=bound).max(axis=-1) >= -np.log(
            alpha
        )
        known = np.where(refuted, middle, known)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return known if bound is None else np.maximum(known, -bound)


def confidence_sequence(
    values: ArrayLike, population: int | None, *, alpha: float = 0.05, bound: float | None = 1.0
) -> Estimate:
    """Return the mean so far, with an interval that may be looked at after every batch.

    The ends of the interval are None if there is no bound yet.

    values: float[n] as in `log_evidence`; n >= 1.
    population: size of the split, for the mean of the split; the interval then shrinks to a point
        once all samples were seen. None, for the mean of the distribution that the split was drawn
        from, as any interval in a report should be.
    alpha: the interval covers 1 - alpha.
    bound: as in `log_evidence`.

    >>> confidence_sequence([1.0, 0.0, 1.0, 0.0], 4)
    Estimate(value=0.5, low=0.5, high=0.5, n=4)
    """
    sample = _checked(values, population, bound)
    low = float(lower_bound(sample, population, alpha=alpha / 2, bound=bound))
    high = -float(lower_bound(-sample, population, alpha=alpha / 2, bound=bound))
    known = np.isfinite(low) and np.isfinite(high)
    return Estimate(
        float(sample.mean()), low if known else None, high if known else None, sample.size
    )


def is_at_least(
    values: ArrayLike,
    threshold: float,
    population: int,
    *,
    alpha: float = 0.05,
    bound: float | None = 1.0,
) -> Answer:
    """Return whether the mean of the split is at least `threshold`, as soon as that is clear.

    The answer is wrong with probability at most alpha however often it is asked for, and never once
    n == population. The two answers do not share alpha, because only one of them can be wrong.

    values: float[n] as in `log_evidence`.
    population, bound: as in `log_evidence`.

    >>> is_at_least([0.0, 0.0, 0.0], -0.5, 4)
    'at least'
    """
    sample = _checked(values, population, bound)
    if _complete(sample, population):
        return "at least" if sample.mean() >= threshold - ROUNDING else "below"
    enough = -np.log(alpha)
    # A mean equal to the threshold counts as at least.
    if log_evidence(sample, threshold - 2 * ROUNDING, population, bound=bound).max() >= enough:
        return "at least"
    return (
        "below"
        if log_evidence(-sample, -threshold, population, bound=bound).max() >= enough
        else "open"
    )


def _betting(value: Values, before: Values, after: Values) -> Values:
    """Return the log of the mixed wealth after each sample.

    value: values, >= 0.
    before, after: fair mean of the next samples before and after each one.
    """
    ratio = np.where(before > ROUNDING, value / np.maximum(before, ROUNDING), 1.0)
    log_wealth = np.cumsum(np.log1p(STAKES * (ratio - 1)[..., None]), axis=-2)
    best = log_wealth.max(axis=-1, keepdims=True)
    mixed = best[..., 0] + np.log(np.exp(log_wealth - best).mean(axis=-1))
    # A negative mean of the remaining samples is impossible, so the threshold is refuted.
    refuted = np.maximum.accumulate(after < -ROUNDING, axis=-1)
    return np.where(refuted, np.inf, mixed)


def _half_normal(sample: Values, level: Values, population: int | None) -> Values:
    """Return the log of exp(s M - s^2 V / 2), mixed over half-normal s >= 0.

    M is the martingale of a sum without replacement, and V its variance.
    """
    n = np.arange(1, sample.shape[-1] + 1)
    mean = np.cumsum(sample, axis=-1) / n
    variance = (
        np.maximum(np.cumsum(sample**2, axis=-1) / n - mean**2, 0.0) * n / np.maximum(n - 1, 1)
    )
    unseen = np.full(n.shape, np.inf) if population is None else population - n
    left = np.ones(n.shape) if population is None else np.maximum(unseen, 1) / population
    prior = SHARPEST if population is None else min(SHARPEST, population / 4)
    usable = (n >= BURN_IN) & (unseen >= BURN_IN) & (variance > 0)
    total = np.where(usable, variance * (n / left + prior), 1.0)
    score = n * (mean - level) / left / np.sqrt(total)
    log = np.log(2) - np.log1p(n / left / prior) / 2 + score**2 / 2 + special.log_ndtr(score)
    return np.where(usable, log, 0.0)


def _checked(values: ArrayLike, population: int | None, bound: float | None) -> Values:
    """Return the values as an array. Raises ValueError if they are not as `log_evidence` asks
    for."""
    sample = np.asarray(values, dtype=np.float64)
    if (
        sample.ndim == 0
        or sample.shape[-1] < 1
        or (population is not None and sample.shape[-1] > population)
    ):
        most = (
            "at least 1 sample"
            if population is None
            else f"1 to {population} samples, the size of the split"
        )
        raise ValueError(f"Expected {most}, got shape {sample.shape}.")
    if not np.isfinite(sample).all():
        raise ValueError("Expected finite values; leave out samples that were not measured.")
    if bound is not None and np.abs(sample).max() > bound * (1 + ROUNDING):
        worst = sample.flat[np.abs(sample).argmax()]
        raise ValueError(
            f"Expected values within {bound:g} of zero, got {worst:g}; give their true bound, or "
            "None."
        )
    return sample


def _complete(sample: Values, population: int | None) -> bool:
    """Return whether all samples of the split were seen."""
    return population is not None and sample.shape[-1] >= population
