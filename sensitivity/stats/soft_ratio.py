"""How much of a soft drop is really lost, for a metric that is no mean over samples, such as mAP.

Every sample has some soft drop there, and single labelled samples say little: what is counted on a
few hundred of them is mostly luck. All judged sets together tell one ratio, on top of what other
detectors say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensitivity.stats.soft_drop import OWN, doubted, paired, standard_error

Values = NDArray[np.float64]

USUAL = 0.4
"""Loss per point of soft drop before anything was counted. It is 0.34 for YOLOX-nano, about 0.3 for
YOLOv8n and 0.55 for drawn detectors (`docs/statistics.md`)."""

SPREAD = 0.15
"""Standard deviation of that loss between detectors."""


UNSEEN = 0.01
"""Least loss that a sample is taken to have that was not seen yet, as a fraction of the full scale:
samples that all lose nothing do not prove that none does."""


@dataclass(frozen=True)
class Ratio:
    """Loss of a set: `slope` * its soft drop.

    doubt: variance of the slope.
    """

    slope: float = USUAL
    doubt: float = SPREAD**2

    def variance(self, moved: Values) -> float:
        """Return the variance of the mean loss.

        moved: float[n], soft drops.
        """
        return self.doubt * float(moved.mean()) ** 2

    def believed(self, moved: Values) -> Values:
        """Return what is believed of each sample's loss, float[n].

        moved: float[n], soft drops.
        """
        return self.slope * moved

    def error(self, moved: Values) -> float:
        """Return the sampling error of the mean loss.

        moved: float[n], soft drops.
        """
        return self.counting_error(self.believed(moved))

    def counting_error(self, lost: Values) -> float:
        """Return the sampling error of the mean of these losses, as if one more sample had lost as
        much as the worst, or UNSEEN if that is more; 1 for a single one.

        lost: float[n].
        """
        if len(lost) < 2:
            return 1.0
        return standard_error(lost, max(float(np.abs(lost).max()), UNSEEN))


def ratio_of(counted: Sequence[ArrayLike], soft: Sequence[ArrayLike]) -> Ratio:
    """Return the ratio by all judged sets together, on top of the prior with USUAL and SPREAD.

    It is the least-squares line through the origin of the sets' mean losses over their mean soft
    drops. What is left over of a sample is summed over the sets before it is squared, since all
    sets share its label. All sets may be off the ratio by OWN.

    counted, soft: as in `line_of`, as fractions of the full scale.

    Raises ValueError if counted and soft differ in length.

    >>> ratio_of([], []) == Ratio()
    True
    """
    sets = [paired(lost, moved) for lost, moved in zip(counted, soft, strict=True)]
    means = np.array([moved.mean() for _, moved in sets])
    total = float(means @ means)
    if total == 0:
        return Ratio()
    slope = float(means @ [lost.mean() for lost, _ in sets]) / total
    left = np.zeros(max(len(lost) for lost, _ in sets))
    for mean, (lost, moved) in zip(means, sets, strict=True):
        left[: len(lost)] += mean / total * (lost - slope * moved) / len(lost)
    n = len(left)
    noise = float(left @ left) * n / max(n - 1, 1)
    doubt = doubted(SPREAD**2, noise, slope - USUAL)
    trust = doubt / (doubt + noise) if n > 1 else 0.0
    found = USUAL + trust * (slope - USUAL)
    own = (OWN * found) ** 2 * float((means**2) @ (means**2)) / total**2
    return Ratio(found, (1 - trust) * doubt + own)
