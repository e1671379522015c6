"""Model of the loss of a skip-set, fitted to the judged sets: one weight for each quantized unit
and one for each pair.

The model is Bayesian and linear. Weights of units start at the estimates of the scan, weights of
pairs at zero, and every judged set moves them. Two layers that only matter together, or that hide
each other, show up as the weight of their pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sensitivity.stats.evidence import likeliest

Array = NDArray[np.float64]

UNIT_DOUBT, PAIR_DOUBT = 1.0, 0.5
"""Standard deviations of a weight before any set is judged, as fractions of the units' own
weights."""

FLOOR = 0.02
"""Smallest weight of a unit, as a fraction of the mean weight, because a scan may have missed the
effect of the unit."""

NOISES = (1e-3, 1e-2, 0.03, 0.06, 0.12, 0.25)
"""Standard deviations of a judged loss that are tried, as fractions of the whole loss. They stand
for interactions of three or more units, and for the luck of a metric on few samples."""

SCALES = (0.3, 1.0, 3.0, 10.0)
"""Factors of the variances of all weights that are tried, because a scan on other samples may say
little about the judged ones."""


@dataclass(frozen=True)
class Weights:
    """Weights of the loss model.

    units: float[n], one weight for each unit.
    pairs: float[n, n], one weight for each pair, above the diagonal only.
    """

    units: Array
    pairs: Array

    def loss(self, quantized: Array) -> Array:
        """Return the modelled loss of each set, float[m].

        quantized: bool[m, n], True for each unit that is quantized.
        """
        pair = np.einsum("mi,ij,mj->m", quantized, self.pairs, quantized)
        return np.asarray(quantized @ self.units + pair)


def first_guess(loss: Sequence[float], whole: float) -> Array:
    """Return each unit's share in the loss of quantizing all units, float[n], from their losses
    alone.

    loss: loss of quantizing each unit alone, >= 0, on any scale.
    whole: loss with everything quantized.
    """
    share = np.maximum(np.asarray(loss, dtype=np.float64), 0.0)
    share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
    share = np.maximum(share, FLOOR / len(share))
    return np.asarray(share / share.sum() * max(whole, 1e-12))


@dataclass(frozen=True)
class Kernel:
    """Covariance of the losses of sets before any is judged.

    units: float[n], variances of the units' weights.
    pairs: float[n, n], variances of the pairs' weights.
    """

    units: Array
    pairs: Array

    def __call__(self, one: Array, other: Array) -> Array:
        both = np.einsum(
            "ai,bi->abi", np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
        )
        return np.asarray(both @ self.units + np.einsum("abi,ij,abj->ab", both, self.pairs, both))

    def __mul__(self, scale: float) -> Kernel:
        return Kernel(self.units * scale, self.pairs * scale)


@dataclass(frozen=True)
class Posterior:
    """The loss model after the judged sets.

    weights: the fitted weights.
    error: root mean square error of predicting each judged set from the others.
    kernel: covariance before any set is judged, at the fitted scale.
    noise: standard deviation of the part of a loss that belongs to one set alone.
    seen: float[m, n], the judged sets.
    inverse: float[m, m], inverse of the covariance of their losses.
    """

    weights: Weights
    error: float
    kernel: Kernel
    noise: float
    seen: Array
    inverse: Array

    def doubt(self, quantized: Array) -> Array:
        """Return the standard deviation of the loss of sets that were not judged, luck included,
        float[m].

        quantized: bool[m, n], True for each unit that is quantized.
        """
        known = self.kernel(quantized, self.seen)
        left = np.diag(self.kernel(quantized, quantized)) - np.sum(
            (known @ self.inverse) * known, axis=1
        )
        return np.asarray(np.sqrt(np.maximum(left, 0.0) + self.noise**2))


def fitted(guess: Array, quantized: Array, losses: Array) -> Posterior:
    """Return the loss model fitted to the judged sets, with the noise and scale under which their
    losses are likeliest.

    guess: float[n], the units' weights before any set is judged.
    quantized: bool[m, n], the judged sets.
    losses: float[m], their losses.
    """
    seen = np.asarray(quantized, dtype=np.float64)
    surprise = losses - seen @ guess
    pairs = np.triu(np.outer(guess, guess), 1) * PAIR_DOUBT**2
    before, whole = Kernel((guess * UNIT_DOUBT) ** 2, pairs), float(guess.sum())
    known = likeliest(
        before(seen, seen), surprise, SCALES, [fraction * whole for fraction in NOISES]
    )
    kernel = before * known.scale
    alpha = known.inverse @ surprise
    moved = kernel.pairs * np.einsum("m,mi,mj->ij", alpha, seen, seen)
    weights = Weights(guess + kernel.units * (alpha @ seen), moved)
    # Leave-one-out residuals of a Gaussian process, in closed form (Sundararajan and Keerthi 2001).
    left_out = alpha / np.diag(known.inverse)
    return Posterior(
        weights, float(np.sqrt(np.mean(left_out**2))), kernel, known.noise, seen, known.inverse
    )
