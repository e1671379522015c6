"""How many samples are forwarded until a plan is confirmed, for 70 units, in a simulated model
whose true losses are known.

    python benchmarks/plan_search.py    (about a minute)

A sample is right if its margin plus the noise of all quantized units is positive. There are six
strong units and a tail of weak ones; float accuracy is about 74 %, fully quantized accuracy about
65 %. Counted are the signal on 16 samples of every unit and of float, every skip set judged on
`confirm`, and float on all of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensitivity.stats.racing_prefix import Tried, next_size
from sensitivity.stats.sequential import is_at_least

UNITS, STRONG, SIGNAL_SAMPLES, BATCH = 70, 6, 16, 50
REJECT, LEAST = 0.3, 0.1
Values = NDArray[np.float64]


def model(seed: int, confirm: int) -> tuple[Values, Values, Values]:
    """The noise variance of each unit [units], the margins [confirm], and the noise of each unit on
    each sample [confirm, units]."""
    rng = np.random.default_rng(seed)
    weak = 0.1 / (UNITS - STRONG) * np.exp(rng.normal(size=UNITS - STRONG))
    variance = rng.permutation(np.concatenate([np.geomspace(0.8, 0.06, STRONG), weak]))
    noise = rng.standard_t(5, size=(confirm, UNITS)) * np.sqrt(3 / 5 * variance)
    return variance, rng.normal(0.65, 1.0, confirm), noise


def judged(difference: Values, allowed: float) -> tuple[bool, int]:
    """Whether the target is met, and the number of samples that decided it. As in `scan.judge`,
    only all samples can decide that it is met."""
    size = difference.size
    for n in range(int(LEAST * size), size, BATCH):
        if is_at_least(difference[:n], -allowed, size, alpha=REJECT) == "below":
            return False, n
    return bool(difference.mean() >= -allowed), size


def search(seed: int, confirm: int, allowed: float) -> tuple[int, int, bool, int]:
    """The units skipped, the samples forwarded, whether the plan meets the target on all of
    confirm, and the shortest prefix that does."""
    variance, margin, noise = model(seed, confirm)
    rng = np.random.default_rng(seed + 1000)
    signal = (variance * 0.6 * rng.standard_t(5, size=(SIGNAL_SAMPLES, UNITS)) ** 2).mean(axis=0)
    order = np.argsort(-signal)

    def difference(skip: NDArray[np.int_]) -> Values:
        left = np.delete(noise, skip, axis=1).sum(axis=1)
        return np.asarray((margin + left > 0).astype(float) - (margin > 0))

    tried: list[Tried] = []
    spent: list[int] = []
    while (size := next_size(signal[order], tried, allowed)) is not None:
        change = difference(order[:size])
        met, n = judged(change, allowed)
        spent.append(n)
        error = np.sqrt((np.sum(change[:n] ** 2) + 1) / (n + 1) / n * (1 - n / confirm))
        tried.append(Tried(size, -float(change[:n].mean()), float(error), met, n / confirm))
    found = min((one.size for one in tried if one.met), default=UNITS)
    samples = (UNITS + 1) * SIGNAL_SAMPLES + sum(spent) + confirm
    ideal = np.argsort(-variance)
    shortest = next(k for k in range(UNITS + 1) if difference(ideal[:k]).mean() >= -allowed)
    return found, samples, bool(difference(order[:found]).mean() >= -allowed), shortest


def main(runs: int = 10) -> None:
    print(
        "| confirm | allowed loss | units skipped | shortest prefix | samples, mean | worst | met "
        "| naive scan alone |"
    )
    for confirm in (2500, 5000):
        for allowed in (0.01, 0.02, 0.03):
            found, samples, met, shortest = zip(
                *(search(seed, confirm, allowed) for seed in range(runs)), strict=True
            )
            means = (
                f"{np.mean(found):.1f} | {np.mean(shortest):.1f} | {np.mean(samples):,.0f} | "
                f"{max(samples):,}"
            )
            print(
                f"| {confirm} | {100 * allowed:.0f} pt | {means} | {sum(met)}/{runs} | "
                f"{UNITS * confirm:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
