"""Settings of `plan` with which a set that was measured before becomes the plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensitivity.records import FrontierPoint, Plan, Target
from sensitivity.search.frontier import first_that_meets
from sensitivity.stats.proof import limit_held

MAX_DIGITS = 6
"""Decimal places beyond which two sets are too close for a target to lie between them."""


@dataclass(frozen=True)
class TargetSettings:
    """A target as settings of `plan`.

    settings: values of `max_drop` or `target`, and of `confidence`.
    allowed: drop from float that the target allows, in the metric's unit; below 0 if the target is
        above float's metric.
    """

    settings: dict[str, Any]
    allowed: float


def target_settings(
    points: Sequence[FrontierPoint], earlier: Plan, full_scale: float
) -> tuple[TargetSettings | None, ...]:
    """Return, for each point, settings that choose it; None if no target of the same confidence
    does.

    points: the cheapest first.
    earlier: plan of the search that measured the points.
    full_scale: the metric's largest value; one point of `max_drop` is a hundredth of it.
    """
    return tuple(_settings_for(point, points, earlier, full_scale) for point in points)


def _settings_for(
    point: FrontierPoint, points: Sequence[FrontierPoint], earlier: Plan, full_scale: float
) -> TargetSettings | None:
    float_value, confidence = earlier.metric.float.value, earlier.target.confidence
    least = _least_allowed(point, float_value, confidence)
    if point.holdout is None or least is None:
        return None
    for choices, target in _targets(least, float_value, full_scale):
        target = replace(target, confidence=confidence)
        if first_that_meets(points, target, float_value) is point:
            return TargetSettings(
                choices | {"confidence": confidence}, float_value - target.floor(float_value)
            )
    return None


def _targets(
    least: float, float_value: float, full_scale: float
) -> Iterator[tuple[dict[str, Any], Target]]:
    """Yield the targets just above the smallest drop that a set holds, the roundest first, each
    with its settings."""
    in_points = least / full_scale * 100
    for digits in range(1, MAX_DIGITS + 1):
        scale = 10**digits
        up = math.ceil(in_points * scale - 1e-6)  # a round number may be too high by its last bits
        # The next number is tried too, because a set may miss its own drop by the last bit.
        for number in (up / scale, (up + 1) / scale):
            if number >= 0:
                text = f"{number:.{digits}f}"
                yield {"max_drop": f"{text}pt"}, Target(drop=float(text) / 100 * full_scale)
            else:
                value = round(float_value - number / 100 * full_scale, digits + 2)
                yield {"target": value}, Target(metric=value)


def _least_allowed(point: FrontierPoint, float_value: float, confidence: float) -> float | None:
    """Return the smallest drop from float, in the metric's unit, that the point holds with this
    confidence; None if its true drop has no interval."""
    if point.true_drop is None:
        return float_value - point.confirm.value
    return limit_held(point.true_drop, confidence)
