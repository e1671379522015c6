"""Marginal likelihood of a Gaussian process, which tells what all sets share from each set's own
luck."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """The likeliest scale and noise of a Gaussian process.

    log_likelihood: marginal log likelihood of the observed values.
    scale: factor of the covariance.
    noise: standard deviation of the part of each value that is its own.
    inverse: float[m, m], inverse of the covariance of the observed values, noise included.
    """

    log_likelihood: float
    scale: float
    noise: float
    inverse: Array


def likeliest(
    own: Array, surprise: Array, scales: Sequence[float], noises: Sequence[float]
) -> Evidence:
    """Return the scale of the covariance and the noise under which `surprise` has the largest
    marginal likelihood.

    Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", 5.4.1.

    own: float[m, m], covariance up to a scale.
    surprise: float[m], observed minus expected values.
    scales, noises: values that are tried, every pair of them.
    """
    # Every covariance tried has the eigenvectors of `own`, so one decomposition serves all.
    values, vectors = np.linalg.eigh(own)
    values, turned = np.maximum(values, 0.0), vectors.T @ surprise
    candidates = []
    for scale, noise in itertools.product(scales, noises):
        variances = scale * values + noise**2
        log_likelihood = -0.5 * np.sum(np.log(2 * np.pi * variances) + turned**2 / variances)
        candidates.append((float(log_likelihood), scale, noise))
    log_likelihood, scale, noise = max(candidates)
    inverse = (vectors / (scale * values + noise**2)) @ vectors.T
    return Evidence(log_likelihood, scale, noise, np.asarray(inverse, dtype=np.float64))
