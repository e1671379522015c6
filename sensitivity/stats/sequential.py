"""Means of a finite split, judged after every batch: evidence and intervals that stay valid at any stopping time.

Samples are visited in a random order fixed beforehand, without replacement; the mean asked for is that of all
`population` samples of the split, so at the last one nothing is left to guess.

Evidence is betting (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", J. R. Stat.
Soc. B 86; section 5 for sampling without replacement) with a fixed mixture of stakes (Cover's universal portfolio,
on a grid): the wealth of a gambler who bets that the mean is above a threshold is a supermartingale while it is not,
so it exceeds 1 / alpha with probability at most alpha, whenever one looks (Ville). Where values have no known bound, a
half-normal mixture on the running variance takes its place (Robbins 1970; Waudby-Smith et al. 2024, "Time-uniform
central limit theory and asymptotic confidence sequences", Ann. Stat. 52): valid for large n only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sensitivity.records import Estimate

Values = NDArray[np.float64]
Verdict = Literal["at least", "below", "open"]

STAKES = 0.95 * 0.7 ** np.arange(12)
"""Shares of the wealth to bet, 0.95 down to 0.02: the best one is about effect / variance, which is not known beforehand.
A mixture of 12 costs at most log(12) against the best of them."""

BURN_IN = 40
"""Unbounded values give no evidence before this many samples: a variance of fewer is a guess."""

ROUNDING = 1e-9


def log_evidence(values: ArrayLike, threshold: ArrayLike, population: int, *, bound: float | None = 1.0) -> Values:
    """Log evidence, after each sample, that the mean of the whole split is above `threshold`.

    values: float[..., n], the first n of `population` samples in their random order; n <= population.
    threshold: float[...], broadcast against the leading axes. bound: |value| is at most this for every sample of the
        split, known beforehand (1 for a difference of scores in [0, 1]); None where there is no such bound.
    Returns float[..., n]; inf where the mean cannot be at most `threshold`. If it is, then the largest entry exceeds
    log(1 / alpha) with probability at most alpha. Decreases as `threshold` grows.
    Raises ValueError if a value is not finite or beyond the bound, or there are more than `population`.
    """
    sample = _checked(values, population, bound)
    level = np.asarray(threshold, dtype=np.float64)[..., None]
    before = np.cumsum(sample, axis=-1) - sample
    left = population - np.arange(sample.shape[-1])
    if bound is None:
        return _half_normal(sample, level, population)
    mean_left = (population * level - before) / left
    return _betting(sample + bound, mean_left + bound, bound)


def lower_bound(values: ArrayLike, population: int, *, alpha: float, bound: float | None = 1.0) -> Values:
    """A bound that the mean of the whole split is above, with probability 1 - alpha at all n at once.

    values: float[..., n] as in `log_evidence`. Returns float[...]; -inf where there is no bound yet.
    """
    sample = _checked(values, population, bound)
    mean = sample.mean(axis=-1)
    floor = -np.inf if bound is None else -bound
    certain = (sample.sum(axis=-1) + floor * (population - sample.shape[-1])) / population if _partial(sample, population) else mean
    if not _partial(sample, population) or (bound is None and sample.shape[-1] < BURN_IN):
        return np.asarray(certain)
    spread = np.ptp(sample) + np.abs(sample).max() if bound is None else 2 * bound
    low, high = mean - spread, np.asarray(mean)
    for _ in range(30):
        middle = (low + high) / 2
        surpassed = log_evidence(sample, middle, population, bound=bound).max(axis=-1) >= -np.log(alpha)
        low, high = np.where(surpassed, middle, low), np.where(surpassed, high, middle)
    return np.maximum(low, certain)


def confidence_sequence(values: ArrayLike, population: int, *, alpha: float = 0.05, bound: float | None = 1.0) -> Estimate:
    """The mean so far with an interval for the mean of the whole split that may be looked at after every batch.

    values: float[n] as in `log_evidence`; n >= 1. Once n == population the interval is the mean itself: it says nothing
    of samples outside the split, for which see `paired.paired_effect`.

    >>> confidence_sequence([1.0, 0.0, 1.0, 0.0], 4)
    Estimate(value=0.5, low=0.5, high=0.5, n=4)
    """
    sample = _checked(values, population, bound)
    low = float(lower_bound(sample, population, alpha=alpha / 2, bound=bound))
    high = -float(lower_bound(-sample, population, alpha=alpha / 2, bound=bound))
    bounded = np.isfinite(low) and np.isfinite(high)
    return Estimate(float(sample.mean()), low if bounded else None, high if bounded else None, sample.size)


def verdict(values: ArrayLike, threshold: float, population: int, *, alpha: float = 0.05, bound: float | None = 1.0) -> Verdict:
    """Whether the mean of the whole split is at least `threshold`, as soon as that is clear.

    values: float[n] as in `log_evidence`. Wrong with probability at most alpha, however often it is asked; never wrong
    once n == population. The two answers need no share of alpha each: only one of them can be wrong.

    >>> verdict([0.0, 0.0, 0.0], -0.5, 4)
    'at least'
    """
    sample = _checked(values, population, bound)
    if not _partial(sample, population):
        return "at least" if sample.mean() >= threshold - ROUNDING else "below"
    if bound is not None:
        rest = bound * (population - sample.size)
        if sample.sum() - rest >= population * threshold:
            return "at least"
        if sample.sum() + rest < population * threshold:
            return "below"
    needed = -np.log(alpha)
    if log_evidence(sample, threshold, population, bound=bound).max() >= needed:
        return "at least"
    return "below" if log_evidence(-sample, -threshold, population, bound=bound).max() >= needed else "open"


def _betting(value: Values, fair: Values, bound: float) -> Values:
    """value >= 0 and its mean by hypothesis, before each sample: log of the mixed wealth after each."""
    impossible = fair < -ROUNDING * bound
    # Nothing left to win by hypothesis: a gain refutes it, no gain leaves the wealth as it is.
    refuted = (fair <= ROUNDING * bound) & (value > fair + ROUNDING * bound)
    ratio = np.where(fair > ROUNDING * bound, value / np.where(fair > ROUNDING * bound, fair, 1.0), 1.0)
    log_wealth = np.cumsum(np.log1p(STAKES * (ratio - 1)[..., None]), axis=-2)
    mixed = special.logsumexp(log_wealth, axis=-1) - np.log(len(STAKES))
    return np.where(np.maximum.accumulate(impossible | refuted, axis=-1), np.inf, mixed)


def _half_normal(sample: Values, level: Values, population: int) -> Values:
    """Log of a half-normal mixture of exp(s M - s^2 V / 2), s >= 0, of the martingale M of a sum without replacement."""
    n = np.arange(1, sample.shape[-1] + 1)
    mean = np.cumsum(sample, axis=-1) / n
    variance = np.maximum(np.cumsum(sample**2, axis=-1) / n - mean**2, 0.0) * n / np.maximum(n - 1, 1)
    shrink = population / np.maximum(population - n, 1)  # 1 / share of the split that is left
    martingale = n * (mean - level) * shrink
    spent = variance * n * shrink
    prior = variance * population / 4  # sharpest about where a fifth of the split has been seen
    total = np.where(spent + prior > 0, spent + prior, 1.0)
    score = martingale / np.sqrt(total)
    log = np.log(2) + np.log(np.where(prior > 0, prior, 1.0) / total) / 2 + score**2 / 2 + special.log_ndtr(score)
    return np.where((n >= BURN_IN) & (n < population) & (variance > 0), log, 0.0)


def _checked(values: ArrayLike, population: int, bound: float | None) -> Values:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim == 0 or not 1 <= sample.shape[-1] <= population:
        raise ValueError(f"Expected 1 to {population} samples, the size of the split, got shape {sample.shape}.")
    if not np.isfinite(sample).all():
        raise ValueError("Expected finite values; leave out samples that were not measured.")
    if bound is not None and np.abs(sample).max() > bound * (1 + ROUNDING):
        raise ValueError(f"Expected values within {bound:g} of zero, got {sample.flat[np.abs(sample).argmax()]:g}; give their true bound, or None.")
    return sample


def _partial(sample: Values, population: int) -> bool:
    return sample.shape[-1] < population
