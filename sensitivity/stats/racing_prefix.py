"""Chooses which prefix of a ranking to try next on `confirm`: the smallest that probably meets the
target.

Quantization noise of different units adds up, and for small noise the loss of a metric grows with
its variance. The loss of a skip-set is therefore about proportional to the signal (output
distortion) of the units that stay quantized. The loss per signal drifts on the way to small
signals, so it is modelled as a random walk. With the tries so far, each weighted by its accuracy,
this is a Gaussian process (Rasmussen and Williams 2006, chapter 2). The model only chooses what to
try; whether a prefix meets the target is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Values = NDArray[np.float64]

LIKELY = 0.65
"""Probability of meeting the target with which a prefix is tried. The allowed doubt is halved
after each pass over the split that was a miss. A lower value gives shorter plans and more such
passes (`benchmarks/plan_search.py`)."""

MISS = 0.5
"""Least fraction of a pass that a miss counts as. If a miss that was clear after a few samples
counted only as these, the next try would be hardly longer, and a search would miss many times."""

DRIFT, OFFSET = 0.6, 0.25
"""DRIFT: standard deviation of the change of the loss per signal while the remaining signal falls
by a factor e, as a fraction of the loss per signal of the fully quantized model. OFFSET: the loss
per signal also changes by DRIFT times the root of OFFSET in any case."""

LUCK = 0.3
"""Standard deviation of the difference between a set's loss and what its signal predicts, whatever
its size, as a fraction of the allowed loss."""


@dataclass(frozen=True)
class Tried:
    """A prefix that was judged.

    size: number of units skipped.
    loss: mean loss against float so far.
    error: standard error of `loss` as an estimate of the loss on the whole split; 0 if all of it
        was measured.
    met: whether the prefix met the target.
    part: fraction of the split that was measured.
    """

    size: int
    loss: float
    error: float
    met: bool
    part: float = 1.0


def next_size(signal: ArrayLike, tried: Sequence[Tried], allowed: float) -> int | None:
    """Return how many units of the ranking to skip in the next try; None if nothing more can be
    learned cheaply.

    The first try is 0, everything quantized, and no size is repeated. The answer of the search is
    the smallest size that met the target; fewer units may be enough if the signal gave them little
    hope. If none met it, skipping all units was tried.

    signal: float[units], >= 0, in ranking order, largest first: mean squared distortion of the
        outputs when only this unit is quantized.
    tried: prefixes that were judged so far, in any order.
    allowed: largest loss that meets the target.

    Raises ValueError for a signal that is negative or not finite.
    """
    noise = _checked_signal(signal)
    if not tried:
        return 0
    units = len(noise)
    failed = max((prefix.size for prefix in tried if not prefix.met), default=-1)
    met = [prefix.size for prefix in tried if prefix.met]
    if met:
        return _between(failed, min(met), units)
    hopeful = _hopeful_sizes(noise, tried, allowed)
    larger = hopeful[hopeful > failed]
    if larger.size:
        return int(larger[0])
    return units if failed < units else None


def _hopeful_sizes(signal: Values, tried: Sequence[Tried], allowed: float) -> NDArray[np.int_]:
    """Return the sizes that are likely enough to meet the target, ascending, if no try met it."""
    loss, error = predicted_loss(signal, tried, allowed)
    missed = sum(max(prefix.part, MISS) for prefix in tried if prefix.size > 0)
    enough = 1 - (1 - LIKELY) / 2**missed
    likely = ndtr((allowed - loss) / np.maximum(error, 1e-12)) >= enough
    return np.flatnonzero(likely)


def _between(failed: int, met: int, units: int) -> int | None:
    """Return the size to try between one that failed and one that met the target; None if it is not
    worth a try."""
    # One more try near the answer takes a whole pass. That is worth it if more than half of the
    # units are in doubt.
    is_worth_a_pass = met - failed > max(units / 2, 1)
    return (failed + met) // 2 if is_worth_a_pass else None


def _checked_signal(signal: ArrayLike) -> Values:
    noise = np.asarray(signal, dtype=np.float64)
    is_usable = noise.ndim == 1 and np.isfinite(noise).all() and (noise >= 0).all()
    if not is_usable:
        raise ValueError(f"Expected a finite signal >= 0 for each unit, got shape {noise.shape}.")
    return noise


def predicted_loss(
    signal: ArrayLike, tried: Sequence[Tried], allowed: float
) -> tuple[Values, Values]:
    """Return the loss on the whole split for each size, and its standard error, both float[units +
    1].

    signal: float[units], as in `next_size`.
    tried: prefixes that were judged so far, with one of size 0 among them.
    allowed: largest loss that meets the target.
    """
    noise = np.asarray(signal, dtype=np.float64)
    left = np.append(np.cumsum((noise if noise.any() else noise + 1)[::-1])[::-1], 0.0)
    left = np.maximum(left / left[0], 1e-9)
    way = -np.log(left)
    start = next(prefix for prefix in tried if prefix.size == 0)
    slope = max(start.loss, abs(allowed), 1e-9)
    sizes = np.array([prefix.size for prefix in tried])
    luck = (LUCK * allowed) ** 2

    def shared(one: Values, other: Values) -> Values:
        """Return the covariance of two losses: the remaining signals, times how far the random walk
        had come where they part."""
        walk = OFFSET + np.minimum(-np.log(one)[:, None], -np.log(other))
        return np.asarray((DRIFT * slope) ** 2 * one[:, None] * walk * other)

    measured = np.array([prefix.loss for prefix in tried]) - slope * left[sizes]
    noise_of_tries = np.diag([prefix.error**2 + luck + 1e-12 for prefix in tried])
    weights = np.linalg.solve(
        shared(left[sizes], left[sizes]) + noise_of_tries, shared(left[sizes], left)
    )
    loss = slope * left + measured @ weights
    prior = (DRIFT * slope * left) ** 2 * (OFFSET + way)
    variance = prior + luck - np.einsum("ij,ij->j", shared(left[sizes], left), weights)
    return np.asarray(loss), np.sqrt(np.maximum(variance, 0.0))
