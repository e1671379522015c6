"""Arrays that may hold infinite values, such as logits of classes that a model masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def without_same_infinities(one: ArrayLike, other: ArrayLike) -> tuple[Array, Array]:
    """Return both arrays as float64, with 0 wherever they hold the same infinite value.

    Their difference is then 0 there, and not NaN. It is infinite or NaN wherever a value is not
    finite in one of them only.

    one, other: numbers of the same shape.

    >>> one, other = without_same_infinities([-np.inf, 1], [-np.inf, np.inf])
    >>> one.tolist(), other.tolist()
    ([0.0, 1.0], [0.0, inf])
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    is_same = np.isinf(first) & (first == second)
    if not is_same.any():
        return first, second
    return np.where(is_same, 0, first), np.where(is_same, 0, second)


def difference_of(one: ArrayLike, other: ArrayLike) -> Array | None:
    """Return the first array minus the second as float64, with 0 wherever both hold the same
    infinite value or NaN.

    Returns None if the arrays differ in a value that is not finite, which no number tells.

    one, other: numbers of the same shape.

    >>> difference_of([np.inf, 3], [np.inf, 1]).tolist()
    [0.0, 2.0]
    >>> difference_of([np.inf, 3], [1, 1]) is None
    True
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    is_same = (first == second) | (np.isnan(first) & np.isnan(second))
    is_finite = np.isfinite(first) & np.isfinite(second)
    if not (is_same | is_finite).all():
        return None
    return np.asarray(np.where(is_same, 0, first) - np.where(is_same, 0, second))


def mean_square(values: Array) -> float:
    """Return the mean square, to which values that are not finite add nothing."""
    finite = np.where(np.isfinite(values), values, 0)
    return float(np.mean(np.square(finite, dtype=np.float64)))
