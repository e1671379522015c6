"""From per-sample scores to ranked effects. Pure functions over arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sensitivity.records import Effect, Estimate, Mode, Scores, Unit
from sensitivity.stats.jackknife import pseudo_values
from sensitivity.stats.paired import differs, mean_estimate, paired_effect
from sensitivity.tasks.base import mean

Aggregate = Callable[[Scores], float]


def per_sample(scores: Scores, aggregate: Aggregate) -> Scores:
    """Return values float[m] whose mean is the metric: the scores themselves for a mean, jackknife
    pseudo-values otherwise."""
    is_single = len(scores) < 2
    if scores.ndim == 1 and (aggregate is mean or is_single):
        return scores
    if is_single:
        return np.array([aggregate(scores)])
    return pseudo_values(scores, aggregate)


def estimate(scores: Scores, aggregate: Aggregate) -> Estimate:
    """Return the metric of these scores with its interval; n is the number of samples."""
    return centred(mean_estimate(per_sample(scores, aggregate)), aggregate(scores), len(scores))


def gain(base: Scores, other: Scores, aggregate: Aggregate) -> Estimate:
    """Return how much the metric of `other` is above that of `base` on the same samples, with a
    paired interval."""
    effect = paired_effect(per_sample(base, aggregate), per_sample(other, aggregate))
    return centred(effect, aggregate(other) - aggregate(base), len(base))


def losses(base: Scores, other: Scores, aggregate: Aggregate) -> Scores:
    """Return what each sample loses by `other`, float[n]; the mean is how much lower its metric is.

    For a metric that is not a mean these are differences of jackknife pseudo-values. If groups of
    samples were left out in turn, samples of one group share a value, and its distance from the
    mean is scaled so that the mean of n values has the same sampling error.

    base, other: scores of the same samples.
    """
    if base.ndim == 1 and aggregate is mean:
        return base - other
    lost = per_sample(base, aggregate) - per_sample(other, aggregate)
    n, groups = len(base), len(lost)
    sizes = [len(group) for group in np.array_split(np.arange(n), groups)]
    spread = np.repeat(lost - lost.mean(), sizes) * np.sqrt(n / groups)
    drop = aggregate(base) - aggregate(other)
    return np.asarray(drop + spread - spread.mean())


def centred(interval: Estimate, value: float, n: int) -> Estimate:
    """Return the interval moved to a value that was computed directly, because jackknife means
    differ from it by their bias."""
    low, high = interval.ends
    shift = value - interval.value
    return Estimate.between(value, low + shift, high + shift, n)


def rank_effects(
    units: Sequence[Unit], scores: Sequence[Scores], base: Scores, aggregate: Aggregate, mode: Mode
) -> tuple[Effect, ...]:
    """Return the effects of the units, largest first; equal effects stay in the model's order and
    are marked as ties.

    scores: scores of each unit's variant.
    base: scores of the quantized model (mode `disable`) or the float model (mode `enable`).
    """
    sign = 1 if mode == "disable" else -1
    values = [sign * per_sample(s, aggregate) for s in scores]
    reference = sign * per_sample(base, aggregate)
    metrics = [aggregate(s) for s in scores]
    effects = [
        centred(paired_effect(reference, value), sign * (metric - aggregate(base)), len(base))
        for value, metric in zip(values, metrics, strict=True)
    ]
    order = sorted(range(len(units)), key=lambda index: -effects[index].value)
    return tuple(
        Effect(rank, _tie(order, rank, values), units[index].name, effects[index], metrics[index])
        for rank, index in enumerate(order, 1)
    )


def _tie(order: Sequence[int], rank: int, values: Sequence[Scores]) -> int:
    """Return the rank of the first unit that the data cannot tell from the unit at `rank`."""
    own = values[order[rank - 1]]
    for above in range(1, rank):
        if not differs(values[order[above - 1]], own):
            return above
    return rank
