"""Which prefix of a ranking to try next on `confirm`: the smallest that probably meets the target.

Quantization noise of different units adds up, and for small noise the loss of a metric grows with
its variance, so the loss of a skip-set is about proportional to the signal (output distortion) of
the units that stay quantized. About: the loss per signal drifts on the way to small signals. So it
is a random walk, and what the tries so far say of it, each as exactly as its samples allow, is a
Gaussian process (Rasmussen and Williams 2006, chapter 2). That only chooses what to try; whether a
prefix meets the target is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Values = NDArray[np.float64]

LIKELY = 0.75
"""A prefix is tried where it meets the target with this probability, and with half of the doubt
after each pass over the split that was a miss. Lower: shorter plans, more such passes;
`benchmarks/plan_search.py`."""

DRIFT, OFFSET = 0.6, 0.25
"""The loss per signal changes by DRIFT of that of the model quantized as a whole, standard
deviation, while the signal that is left falls by a factor e; and by that times the root of OFFSET
in any case."""

LUCK = 0.3
"""Standard deviation of what a set loses more or less than its signal says, whatever its size, as a
fraction of the allowed loss."""


@dataclass(frozen=True)
class Tried:
    """A prefix that was judged. size: units skipped; loss: mean loss against float so far; error:
    its standard error as an estimate of that on the whole split, 0 where that was measured. part:
    how much of the split that took."""

    size: int
    loss: float
    error: float
    met: bool
    part: float = 1.0


def next_size(signal: ArrayLike, tried: Sequence[Tried], allowed: float) -> int | None:
    """Return how many units of the ranking to skip in the next try; None when there is nothing left
    to learn cheaply.

    signal: float[units] >= 0 in ranking order, largest first: mean squared distortion of the
        outputs when only this unit is quantized.
    tried: what was judged so far, in any order.
    allowed: the largest loss that meets the target.
    Starts with 0, everything quantized, and never repeats a size. The answer is the smallest size
    that met the target; fewer units may do where the signal gave little hope for them. With none
    that met, skipping all was tried. Raises ValueError for a signal that is negative or not finite.
    """
    noise = _checked_signal(signal)
    if not tried:
        return 0
    units = len(noise)
    failed = max((one.size for one in tried if not one.met), default=-1)
    met = [one.size for one in tried if one.met]
    if met:
        return _between(failed, min(met), units)
    hopeful = _hopeful_sizes(noise, tried, allowed)
    larger = hopeful[hopeful > failed]
    if larger.size:
        return int(larger[0])
    return units if failed < units else None


def _hopeful_sizes(signal: Values, tried: Sequence[Tried], allowed: float) -> NDArray[np.int_]:
    """Return the sizes that are likely enough to meet the target, ascending, where no try met
    it."""
    loss, error = predicted_loss(signal, tried, allowed)
    missed = sum(one.part for one in tried if one.size > 0)
    enough = 1 - (1 - LIKELY) / 2**missed
    likely = ndtr((allowed - loss) / np.maximum(error, 1e-12)) >= enough
    return np.flatnonzero(likely)


def _between(failed: int, met: int, units: int) -> int | None:
    """Return the size to try between one that failed and one that met the target; None where it is
    not worth it."""
    # One more near the answer takes a whole pass; where more than half of the units are in doubt
    # it is worth that.
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
    """Return the loss on the whole split of each size, and its standard error, float[units + 1]
    both; the first try is of size 0."""
    noise = np.asarray(signal, dtype=np.float64)
    left = np.append(np.cumsum((noise if noise.any() else noise + 1)[::-1])[::-1], 0.0)
    left = np.maximum(left / left[0], 1e-9)
    way = -np.log(left)
    start = next(one for one in tried if one.size == 0)
    slope = max(start.loss, abs(allowed), 1e-9)
    at = np.array([one.size for one in tried])
    luck = (LUCK * allowed) ** 2

    def shared(one: Values, other: Values) -> Values:
        """Return the covariance of two losses: signal left, times how far the random walk had come
        where they parted."""
        walk = OFFSET + np.minimum(-np.log(one)[:, None], -np.log(other))
        return np.asarray((DRIFT * slope) ** 2 * one[:, None] * walk * other)

    measured = np.array([one.loss for one in tried]) - slope * left[at]
    noise_of_tries = np.diag([one.error**2 + luck + 1e-12 for one in tried])
    weights = np.linalg.solve(shared(left[at], left[at]) + noise_of_tries, shared(left[at], left))
    loss = slope * left + measured @ weights
    prior = (DRIFT * slope * left) ** 2 * (OFFSET + way)
    variance = prior + luck - np.einsum("ij,ij->j", shared(left[at], left), weights)
    return np.asarray(loss), np.sqrt(np.maximum(variance, 0.0))
