"""What a skip-set loses, learned from the sets that were judged: a part of each quantized unit and of each pair.

A Bayesian linear model. Weights of units begin at what the scan says, those of pairs at none, and every judged set moves
them. Two layers that only matter together, or that hide each other, show up as the weight of their pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNIT_DOUBT, PAIR_DOUBT = 1.0, 0.5
"""Standard deviations of a weight before anything was judged, as parts of the units' own."""

FLOOR = 0.02
"""The least that a unit is thought to weigh, as part of the mean: a scan may have missed it."""

NOISE = 1e-3
"""Standard deviation of a judged loss, as part of the whole loss: interactions of three and more."""


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

    The second is the root mean square error of predicting each judged set from the others.
    """
    units, pairs = guess * UNIT_DOUBT, np.triu(np.sqrt(np.outer(guess, guess)) * PAIR_DOUBT, 1)
    seen = np.asarray(quantized, dtype=np.float64)
    both = np.einsum("ai,bi->abi", seen, seen)
    kernel = both @ units**2 + np.einsum("abi,ij,abj->ab", both, pairs**2, both)
    surprise = losses - seen @ guess
    scale = (NOISE * guess.sum()) ** 2
    inverse = np.linalg.inv(kernel + scale * np.eye(len(seen)))
    alpha = inverse @ surprise
    weights = Weights(guess + units**2 * (alpha @ seen), pairs**2 * np.einsum("m,mi,mj->ij", alpha, seen, seen))
    # Leave-one-out residuals of a Gaussian process, in closed form (Sundararajan and Keerthi 2001).
    left_out = alpha / np.diag(inverse)
    return weights, float(np.sqrt(np.mean(left_out**2)))
