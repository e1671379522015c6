"""Number of samples that it takes to see a drop."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize
from scipy.special import ndtr, ndtri, stdtrit

from sensitivity import optional
from sensitivity.records import Estimate


def samples_needed(drop: float, spread: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the number of samples with which a paired t test tells a mean drop from zero.

    The test is two-sided at `alpha` and succeeds in the fraction `power` of all cases.

    drop: mean per-sample difference, > 0.
    spread: standard deviation of the per-sample difference, >= 0.

    Raises ValueError for another drop or spread.

    >>> samples_needed(0.01, 0.2)
    3142
    """
    if not drop > 0 or not spread >= 0:
        raise ValueError(
            f"Expected a drop above 0 and a spread of at least 0, got {drop} and {spread}."
        )
    if spread == 0 or _power(2, drop / spread, alpha) >= power:
        return 2
    normal = ((ndtri(1 - alpha / 2) + ndtri(power)) * spread / drop) ** 2
    samples = optimize.brentq(lambda n: _power(n, drop / spread, alpha) - power, 2, 2 * normal + 20)
    return math.ceil(samples)


def spread_of(effect: Estimate, *, alpha: float = 0.05) -> float | None:
    """Return the standard deviation of the per-sample differences behind a paired effect; None
    without an interval."""
    if not effect.has_interval:
        return None
    low, high = effect.ends
    return float((high - low) / 2 * np.sqrt(effect.n) / ndtri(1 - alpha / 2))


def _power(n: float, size: float, alpha: float) -> float:
    """Return the power of a two-sided one-sample t test with n samples and standardized effect
    `size`."""
    limit = stdtrit(n - 1, 1 - alpha / 2)
    centre = size * np.sqrt(n)
    if n > 1000:  # the noncentral t is nearly normal, and SciPy's is slow there
        return float(ndtr(centre - limit) + ndtr(-limit - centre))
    if centre > limit + 20:  # SciPy returns nan this far out
        return 1.0
    nct = optional.stats.nct
    return float(nct.sf(limit, n - 1, centre) + np.nan_to_num(nct.cdf(-limit, n - 1, centre)))
