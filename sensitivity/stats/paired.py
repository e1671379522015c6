"""Estimates with intervals from per-sample scores, for data that is looked at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from sensitivity import optional
from sensitivity.records import Estimate

Values = NDArray[np.float64]


def paired_effect(base: ArrayLike, other: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """Return the mean per-sample gain of `other` over `base`, with an interval.

    Differences in {-1, 0, 1} (right or wrong) get the adjusted Wald interval of Bonett and Price
    (2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data"). It stays honest if few or no samples changed, and its bounds are widened to hold
    the plain difference. Other scores get Student's t interval. There is no interval for n < 2.

    base, other: float[n], scores of the same samples in the same order.
    alpha: 0 < alpha < 1; the interval covers 1 - alpha if looked at once. Looking after every batch
        needs `sensitivity.stats.sequential`.

    Raises ValueError if lengths differ or a value is not finite.

    >>> paired_effect([0., 1., 1.], [0., 1., 1.]).value
    0.0
    """
    difference = _values(other) - _values(base) if np.shape(base) == np.shape(other) else None
    if difference is None:
        raise ValueError(
            f"Expected scores of the same samples, got shapes {np.shape(base)} and "
            f"{np.shape(other)}."
        )
    if difference.size >= 2 and np.isin(difference, (-1.0, 0.0, 1.0)).all():
        return _bonett_price(difference, alpha)
    return mean_with_t_interval(difference, alpha=alpha)


def mean_estimate(values: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """Return the mean of float[n] with an interval: Wilson's for values in {0, 1}, Student's t
    otherwise."""
    sample = _values(values)
    if sample.size >= 2 and np.isin(sample, (0.0, 1.0)).all():
        test = optional.stats.binomtest(int(sample.sum()), sample.size)
        interval = test.proportion_ci(1 - alpha, method="wilson")
        return Estimate(
            float(sample.mean()), float(interval.low), float(interval.high), sample.size
        )
    return mean_with_t_interval(sample, alpha=alpha)


def mean_with_t_interval(values: ArrayLike, *, alpha: float = 0.05) -> Estimate:
    """Return the mean of float[n] with Student's t interval, or without an interval for n < 2."""
    sample = _values(values)
    mean = float(sample.mean())
    if sample.size < 2:
        return Estimate(mean, None, None, sample.size)
    half = float(
        stdtrit(sample.size - 1, 1 - alpha / 2) * sample.std(ddof=1) / np.sqrt(sample.size)
    )
    return Estimate(mean, mean - half, mean + half, sample.size)


def differs(first: ArrayLike, second: ArrayLike, *, alpha: float = 0.05) -> bool:
    """Return whether the data can tell two variants apart: the interval of their paired effect
    excludes zero."""
    return not paired_effect(first, second, alpha=alpha).allows(0)


def _bonett_price(difference: Values, alpha: float) -> Estimate:
    n = difference.size
    gained = (np.sum(difference > 0) + 1) / (n + 2)
    lost = (np.sum(difference < 0) + 1) / (n + 2)
    centre = gained - lost
    half = ndtri(1 - alpha / 2) * np.sqrt((gained + lost - centre**2) / (n + 2))
    mean = float(difference.mean())
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Estimate(mean, min(mean, float(low)), max(mean, float(high)), n)


def _values(values: ArrayLike) -> Values:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"Expected finite scores float[n] with n >= 1, got shape {sample.shape}.")
    return sample
