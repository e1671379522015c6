"""Tells whether samples are in random order, as a part of them must be to stand for all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

SURE = 0.001
"""Probability with which samples in random order are taken for ordered ones."""


def is_in_random_order(values: ArrayLike) -> bool:
    """Return whether neighbours differ as much as in random order.

    Neighbours of sorted or grouped values are too alike, which von Neumann's ratio of ranks shows
    (Bartels 1982, "The rank version of von Neumann's ratio test for randomness", J. Am. Stat.
    Assoc. 77). Values that are all the same count as grouped.

    values: float[n], such as the labels of the samples in their order.

    >>> labels = [int(digit) for digit in "31415926535897932384626433832795"]
    >>> is_in_random_order(labels), is_in_random_order(sorted(labels))
    (True, False)
    """
    _, at, times = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(times)
    rank = (ends - (times - 1) / 2)[at.reshape(-1)]
    spread = float(np.sum((rank - rank.mean()) ** 2))
    if spread == 0:
        return False
    ratio = float(np.sum(np.diff(rank) ** 2)) / spread
    return bool(ratio > 2 + 2 / np.sqrt(len(rank)) * ndtri(SURE))
