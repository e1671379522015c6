"""The ratio of two medians, from times that were taken in turn, with an interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensitivity.records import Estimate
from sensitivity.seeds import generator


def median_ratio(
    base: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    block: int | None = None,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int | None = None,
) -> Estimate:
    """median(base) / median(other), with a paired block-bootstrap interval that covers 1 - alpha.

    base, other: float64[n], times of round i in both. Rounds are drawn together, so what slows a
    whole round (another
        process, a lower clock) falls out of the ratio; they are drawn in blocks of consecutive
        rounds, because neighbouring rounds are slowed alike and an interval from single rounds
        would be too narrow.
    block: rounds in a block; None means n**(1/3).
    The interval is None for n < 2.
    """
    n = len(base)
    if n != len(other) or n == 0:
        raise ValueError(
            f"Expected as many times for both files and at least one, got {n} and {len(other)}."
        )
    ratio = float(np.median(base) / np.median(other))
    if n < 2:
        return Estimate(ratio, None, None, n)
    drawn = _block_rounds(n, block or max(1, round(n ** (1 / 3))), resamples, generator(seed))
    ratios = np.median(base[drawn], axis=1) / np.median(other[drawn], axis=1)
    low, high = np.quantile(ratios, [alpha / 2, 1 - alpha / 2])
    return Estimate(ratio, float(low), float(high), n)


def _block_rounds(
    n: int, length: int, resamples: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the indices int[resamples, n] of rounds, in circular blocks of consecutive rounds."""
    starts = rng.integers(0, n, size=(resamples, -(-n // length)))
    rounds = (starts[:, :, None] + np.arange(length)) % n
    return rounds.reshape(resamples, -1)[:, :n].astype(np.intp)
