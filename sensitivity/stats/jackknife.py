"""Per-sample values for a metric that is not a mean, such as mAP."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MAX_GROUPS = 200


def pseudo_values(
    scores: NDArray[np.float64],
    aggregate: Callable[[NDArray[np.float64]], float],
    most: int = MAX_GROUPS,
) -> NDArray[np.float64]:
    """Return the jackknife pseudo-values (Tukey 1958): their mean is the bias-corrected metric,
    their spread its sampling error.

    Groups of consecutive samples are left out in turn, so the result is float[min(n, most)]. For a
    mean and n <= most it is `scores` itself. The same call on two variants' scores of the same
    samples gives pairs.

    scores: float[n, ...], one row for each sample.
    aggregate: function from any number of rows to the metric.
    most: the largest number of groups.
    """
    groups = np.array_split(np.arange(len(scores)), min(len(scores), most))
    whole = aggregate(scores)
    left_out = np.array([aggregate(np.delete(scores, group, axis=0)) for group in groups])
    return len(groups) * whole - (len(groups) - 1) * left_out
