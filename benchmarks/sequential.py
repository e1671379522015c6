"""Intervals that may be looked at after every batch, compared by their half widths and by how often
they fail at some look.

    python benchmarks/sequential.py    (about a minute; the tables of docs/evidence.md)

The data are differences of right and wrong answers, by default 5 % gained and 3 % lost, drawn
without replacement, with a look every 50 samples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sensitivity.stats.sequential import log_evidence, lower_bound

Values = NDArray[np.float64]
LOOK = 50
UNITS = 40


def split(size: int, gained: int, lost: int, runs: int, seed: int = 0) -> Values:
    """float[runs, size]: the same split in random orders."""
    values = np.repeat([1.0, -1.0, 0.0], [gained, lost, size - gained - lost])
    return np.random.default_rng(seed).permuted(np.tile(values, (runs, 1)), axis=1)


def looks(size: int) -> int:
    return math.ceil(size / LOOK)


def standard_error(seen: Values, size: int) -> Values:
    n = seen.shape[1]
    return np.asarray(seen.std(axis=1, ddof=1) * np.sqrt((1 - n / size) / n))


def sequence(seen: Values, size: int, alpha: float, bound: float | None) -> float:
    low = lower_bound(seen, size, alpha=alpha / 2, bound=bound)
    high = -lower_bound(-seen, size, alpha=alpha / 2, bound=bound)
    return float((high - low).mean() / 2)


def serfling(n: int, size: int, alpha: float) -> float:
    """Hoeffding-Serfling (Serfling 1974), with alpha shared among the looks."""
    return math.sqrt(2 * (1 - (n - 1) / size) * math.log(2 * looks(size) / alpha) / n)


def bernstein(seen: Values, size: int, alpha: float) -> float:
    """Empirical Bernstein-Serfling (Bardenet and Maillard 2015, theorem 4.3), with alpha shared
    among the looks."""
    n = seen.shape[1]
    left = 1 - (n - 1) / size if n <= size / 2 else (1 - n / size) * (1 + 1 / n)
    log = math.log(5 * looks(size) / alpha)
    kappa = 7 / 3 + 3 / math.sqrt(2)
    return float(np.mean(seen.std(axis=1) * math.sqrt(2 * left * log / n) + 2 * kappa * log / n))


def widths() -> None:
    print(
        "| split | n | alpha | betting | half-normal | t, shared alpha | Bernstein | Hoeffding | "
        "one look |"
    )
    for size in (300, 1000, 5000):
        orders = split(size, size // 20, 3 * size // 100, runs=60)
        for n in [n for n in (100, 200, 500, 1000, 2500) if n < size]:
            for alpha in (0.05, 0.05 / UNITS):
                seen = orders[:, :n]
                error = float(standard_error(seen, size).mean())
                row = [
                    sequence(seen, size, alpha, 1.0),
                    sequence(seen, size, alpha, None),
                    error * stats.t.ppf(1 - alpha / looks(size) / 2, n - 1),
                    bernstein(seen, size, alpha),
                    serfling(n, size, alpha),
                    error * stats.norm.ppf(1 - alpha / 2),
                ]
                print(
                    f"| {size} | {n} | {alpha:.5f} | "
                    + " | ".join(f"{100 * width:.1f}" for width in row)
                    + " |"
                )


def failures(runs: int = 4000, alpha: float = 0.05) -> None:
    print("| split | gained | lost | betting | half-normal | t, shared alpha | t at every look |")
    for size, gained, lost in ((300, 3, 0), (300, 15, 9), (1000, 5, 0), (1000, 50, 30)):
        orders = split(size, gained, lost, runs)
        mean = (gained - lost) / size
        row = []
        for bound in (1.0, None):
            above = log_evidence(orders, mean, size, bound=bound).max(axis=1)
            below = log_evidence(-orders, -mean, size, bound=bound).max(axis=1)
            row.append(np.mean(np.maximum(above, below) >= math.log(2 / alpha)))
        for share in (alpha / looks(size), alpha):
            outside = np.zeros(runs, dtype=bool)
            for n in range(LOOK, size, LOOK):
                half = stats.t.ppf(1 - share / 2, n - 1) * standard_error(orders[:, :n], size)
                outside |= np.abs(orders[:, :n].mean(axis=1) - mean) > half
            row.append(outside.mean())
        print(
            f"| {size} | {gained} | {lost} | "
            + " | ".join(f"{100 * share:.1f}" for share in row)
            + " |"
        )


if __name__ == "__main__":
    widths()
    failures()
