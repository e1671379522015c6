"""Computes the ratio of two medians, from times that were taken in turn, with an interval."""

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
    """Return median(base) / median(other), with an interval that covers 1 - alpha.

    The interval is a paired block bootstrap. Rounds are drawn together, so that what slows a whole
    round (another process, a lower clock) cancels in the ratio. They are drawn in blocks of
    consecutive rounds, since neighbouring rounds are slowed alike and single rounds would give too
    narrow an interval.

    base, other: float64[n], times of the same rounds. The interval is None for n < 2.
    block: rounds in a block; None means n**(1/3).
    seed: of the bootstrap; None takes the seed of the command.
    Raises ValueError if the lengths differ or are 0.
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
