"""What is measured: scores, estimates with intervals, findings of checks, and effects of units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]
    """Per-sample scores, shape [n] or [n, k]. The first axis is the sample."""
else:
    Scores = Any  # keeps numpy out of the start-up of the command line

Mode = Literal["disable", "enable"]
Severity = Literal["error", "warning", "note"]
SpeedRatio = Literal["faster", "slower", "no different"]

SPLITS = ("rank", "confirm", "holdout")
"""Splits of the data set. `rank` is for sensitivities, `confirm` for choosing a plan, and `holdout`
for the reported accuracy; `holdout` is never used to choose."""


@dataclass(frozen=True)
class Finding:
    """One result of a check before the work begins.

    code: stable identifier in kebab-case, for programs.
    severity: an "error" stops the work, a "warning" is repeated wherever the results are shown, and
        a "note" is only information.
    where: the quantizer, layer, tensor, split or file concerned; "" for the whole task.
    message: one sentence that says what must hold and what was found.
    fix: what to do about it; "" for a note.
    """

    code: str
    severity: Severity
    where: str
    message: str
    fix: str


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    low, high: ends of the interval; None if there is none (n < 2).
    n: number of samples.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def between(cls, value: float, low: float, high: float, n: int) -> Estimate:
        """Return an estimate with this interval, or without one if an end is not finite."""
        if math.isfinite(low) and math.isfinite(high):
            return cls(value, low, high, n)
        return cls(value, None, None, n)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; (-inf, inf) without one, since the value may then be
        anything."""
        if self.low is None or self.high is None:
            return -math.inf, math.inf
        return self.low, self.high

    @property
    def sides(self) -> tuple[float, float]:
        """How far the interval reaches below and above the value; inf without an interval."""
        low, high = self.ends
        return self.value - low, high - self.value

    def allows(self, value: float) -> bool:
        """Return whether this value is consistent with the data, i.e. lies in the interval."""
        low, high = self.ends
        return low <= value <= high

    def plus(self, by: float) -> Estimate:
        """Return the estimate shifted up by `by`."""
        low, high = self.ends
        return Estimate.between(self.value + by, low + by, high + by, self.n)

    def under(self, level: float) -> Estimate:
        """Return the estimate of `level` minus this one, for a level that is known exactly."""
        low, high = self.ends
        return Estimate.between(level - self.value, level - high, level - low, self.n)


@dataclass(frozen=True)
class TrueDrop(Estimate):
    """Drop in the population that the samples come from, see `stats.soft_drop`.

    parts: splits whose labels it counts; empty if the file is from a version that did not keep
        them.
    """

    parts: tuple[str, ...] = ()


def speed_from_ratio(ratio: Estimate) -> SpeedRatio:
    """Return whether a file is faster than another, given the ratio of their speeds."""
    if ratio.allows(1):
        return "no different"
    return "faster" if ratio.value > 1 else "slower"


@dataclass(frozen=True)
class Effect:
    """Sensitivity of one unit.

    rank: 1 is the most sensitive; unique.
    tie: rank of the first unit that the data cannot distinguish from this one; equal to `rank` if
        there is none.
    effect: in mode `disable`, the metric gained when only this unit is left unquantized; in mode
        `enable`, the metric lost when only this unit is quantized. In the metric's own unit. n = 0
        marks a unit that a race ranked by its signal alone; its value, 0, and `metric` then carry
        no information.
    metric: aggregate metric of the variant itself.
    judged: False if the unit reaches no output that the score reads, so that its effect is unknown.
    """

    rank: int
    tie: int
    unit: str
    effect: Estimate
    metric: float
    judged: bool = True

    @property
    def is_measured(self) -> bool:
        """Whether the score reads the unit's output and samples were spent on measuring it."""
        return self.judged and self.effect.n > 0
