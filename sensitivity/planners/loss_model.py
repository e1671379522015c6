"""What a skip-set loses, learned from the sets that were judged: a part of each quantized unit and of each pair.

A Bayesian linear model. Weights of units begin at what the scan says, those of pairs at none, and every judged set moves
them. Two layers that only matter together, or that hide each other, show up as the weight of their pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

Array = NDArray[np.float64]

UNIT_DOUBT, PAIR_DOUBT = 1.0, 0.5
"""Standard deviations of a weight before anything was judged, as parts of the units' own."""

FLOOR = 0.02
"""The least that a unit is thought to weigh, as part of the mean: a scan may have missed it."""

NOISES = (1e-3, 1e-2, 0.03, 0.06, 0.12, 0.25)
"""Standard deviations of a judged loss, as parts of the whole loss: interactions of three and more, and the luck of a metric on
few samples."""

SCALES = (0.3, 1.0, 3.0, 10.0)
"""Factors of the variances of all weights: a scan on other samples may say little about these."""


@dataclass(frozen=True)
class Weights:
    """units: float[n]. pairs: float[n, n], above the diagonal only."""

    units: Array
    pairs: Array

    def loss(self, quantized: Array) -> Array:
        """float[m] for bool[m, n], True where a unit is quantized."""
        pair = np.einsum("mi,ij,mj->m", quantized, self.pairs, quantized)
        return np.asarray(quantized @ self.units + pair)


def first_guess(loss: Sequence[float], whole: float) -> Array:
    """float[n]: the share of each unit in the loss of quantizing all, from how much each costs alone.

    loss: >= 0, on any scale. whole: the loss with everything quantized.
    """
    share = np.maximum(np.asarray(loss, dtype=np.float64), 0.0)
    share = share / share.sum() if share.sum() > 0 else np.full(len(share), 1 / len(share))
    share = np.maximum(share, FLOOR / len(share))
    return np.asarray(share / share.sum() * max(whole, 1e-12))


def fitted(guess: Array, quantized: Array, losses: Array) -> tuple[Weights, float]:
    """Weights after seeing the losses float[m] of sets bool[m, n], and how far the guess for a new set may be off.

    The noise and the scale under which these losses are likeliest are taken (Rasmussen and Williams 2006, "Gaussian
    Processes for Machine Learning", 5.4.1). The second is the root mean square error of predicting each judged set from
    the others.
    """
    units, pairs = guess * UNIT_DOUBT, np.triu(np.sqrt(np.outer(guess, guess)) * PAIR_DOUBT, 1)
    seen = np.asarray(quantized, dtype=np.float64)
    both = np.einsum("ai,bi->abi", seen, seen)
    kernel = both @ units**2 + np.einsum("abi,ij,abj->ab", both, pairs**2, both)
    surprise = losses - seen @ guess
    scale, covariance = _likeliest(kernel, surprise, float(guess.sum()))
    inverse = np.linalg.inv(covariance)
    alpha = inverse @ surprise
    moved = scale * np.einsum("m,mi,mj->ij", alpha, seen, seen)
    weights = Weights(guess + scale * units**2 * (alpha @ seen), pairs**2 * moved)
    # Leave-one-out residuals of a Gaussian process, in closed form (Sundararajan and Keerthi 2001).
    left_out = alpha / np.diag(inverse)
    return weights, float(np.sqrt(np.mean(left_out**2)))


def _likeliest(kernel: Array, surprise: Array, whole: float) -> tuple[float, Array]:
    """The scale of the kernel, and the covariance of what was seen, with the largest marginal likelihood."""
    found = []
    for scale, noise in itertools.product(SCALES, NOISES):
        covariance = scale * kernel + (noise * whole) ** 2 * np.eye(len(kernel))
        found.append((multivariate_normal(cov=covariance).logpdf(surprise), scale, covariance))
    _, scale, covariance = max(found, key=lambda one: float(one[0]))
    return scale, covariance
