"""How much a Gaussian process owes to what all sets share, and how much to each one's own luck."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """log_likelihood: marginal, of what was seen. scale: of the covariance. noise: standard
    deviation of each value's own.

    inverse: float[m, m], of the covariance of what was seen, noise included.
    """

    log_likelihood: float
    scale: float
    noise: float
    inverse: Array


def likeliest(
    own: Array, surprise: Array, scales: Sequence[float], noises: Sequence[float]
) -> Evidence:
    """The scale of the covariance and the noise under which `surprise` has the largest marginal
    likelihood.

    own: float[m, m], covariance up to a scale. surprise: float[m], what was seen less what was
    expected. Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", 5.4.1.
    """
    found = []
    for scale, noise in itertools.product(scales, noises):
        covariance = scale * own + noise**2 * np.eye(len(own))
        found.append(
            (float(multivariate_normal(cov=covariance).logpdf(surprise)), scale, noise, covariance)
        )
    log_likelihood, scale, noise, covariance = max(found, key=lambda one: one[:3])
    return Evidence(
        log_likelihood, scale, noise, np.asarray(np.linalg.inv(covariance), dtype=np.float64)
    )
