"""Estimates a plan's drop on the samples that chose it, corrected for having tried many plans."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sensitivity.records import Estimate
from sensitivity.seeds import generator


def corrected_drop(
    float_values: ArrayLike,
    values: ArrayLike,
    costs: ArrayLike,
    allowed: float,
    *,
    alpha: float = 0.05,
    resamples: int = 1000,
    seed: int | None = None,
) -> Estimate:
    """Return the mean loss against float of the set that the search would choose, judged on samples
    that did not choose it.

    In each bootstrap sample the cheapest set that meets the target is chosen, or the one with the
    smallest drop if none does, and its drop is taken on the samples that were not drawn
    (Tsamardinos, Greasidou and Borboudakis 2018, "Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation", Machine Learning 107). The result is a little too
    high, since a bootstrap sample holds two thirds of the samples. There is no interval for n < 2.

    float_values: float[n], values of the float model.
    values: float[k, n], values of the k sets tried, on the same samples.
    costs: float[k], cost of each set.
    allowed: largest drop that meets the target.

    Raises ValueError if shapes do not fit.
    """
    difference = np.asarray(float_values, dtype=np.float64) - np.asarray(values, dtype=np.float64)
    cost = np.asarray(costs, dtype=np.float64)
    if difference.ndim != 2 or len(cost) != len(difference):
        raise ValueError(
            f"Expected values float[k, n] and costs float[k], got {difference.shape} and "
            f"{cost.shape}."
        )
    n = difference.shape[1]
    if n < 2:
        return Estimate(
            float(difference[_chosen(difference.mean(axis=1), cost, allowed)].mean()), None, None, n
        )
    rng = generator(seed)
    drops = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        out = times == 0
        if out.any():
            drops.append(difference[_chosen(difference @ times / n, cost, allowed)][out].mean())
    low, high = np.quantile(drops, [alpha / 2, 1 - alpha / 2])
    return Estimate(float(np.mean(drops)), float(low), float(high), n)


def _chosen(drops: np.ndarray, cost: np.ndarray, allowed: float) -> int:
    met = drops <= allowed + 1e-12
    return int(np.argmin(np.where(met, cost, np.inf))) if met.any() else int(np.argmin(drops))
