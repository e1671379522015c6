"""Every skip-set that a search measured, as a curve, and plans for other targets taken from it.

Holdout is measured for the sets that some target would choose, whatever it says about them:
choosing among them for a new target then needs no sample, and still does not look at holdout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sensitivity.measure.ranking import estimate, gain, per_sample
from sensitivity.measure.study import Study
from sensitivity.measure.variants import skip_variant
from sensitivity.records import (
    CostModel,
    Estimate,
    FrontierPoint,
    Plan,
    PlanStep,
    Quantizer,
    Range,
    Scores,
    Target,
    Unit,
    Widened,
    cost_of,
    names_of,
    predicted_ms,
)
from sensitivity.search.soft_judge import Promise, SoftJudge
from sensitivity.stats.proof import chance_below, widened
from sensitivity.stats.selection import corrected_drop

HOLDOUT_SAMPLES = 5_000
"""Most to forward on `holdout` for the sets of the curve, besides the plan's own."""


@dataclass(frozen=True)
class Frontier:
    """What a search left for other targets. points: in the order tried.

    search: the settings that it was for; another target of the same search may be answered from it.
    cost: of a skip-set; None where units were counted. wide: as in `Study`.
    """

    points: tuple[FrontierPoint, ...]
    search: dict[str, str]
    cost: CostModel | None
    wide: dict[str, tuple[Range, ...]] = field(default_factory=dict)


def measured_frontier(
    study: Study, plan: Plan, cost: CostModel | None
) -> tuple[FrontierPoint, ...]:
    """Return the sets of the plan's path that were measured on all of `confirm`, and everything in
    INT8 among them."""
    measurer, aggregate = study.measurer, study.measurer.task.aggregate
    (float_scores,) = measurer.scores([study.float_variant], "confirm", "frontier: float")
    points = []
    for step in plan.path:
        scores = measurer.known(study.skip_variant(step.names), "confirm")
        if len(scores) == len(float_scores):
            drop = gain(scores, float_scores, aggregate)
            level = estimate(scores, aggregate)
            ms = predicted_ms(step.names, cost)
            points.append(FrontierPoint(step.skip, level, drop, predicted_ms=ms, wide=step.wide))
    points = _with_true_drops(study, plan, points, float_scores)
    return _held_out(study, points, cost, plan.names)


def _with_true_drops(
    study: Study, plan: Plan, points: Sequence[FrontierPoint], float_scores: Scores
) -> list[FrontierPoint]:
    """Return the same points with their true drops, where the plan has one."""
    if plan.metric.true_drop is None:
        return list(points)
    allowed = plan.metric.float.value - plan.floor
    judge = SoftJudge(study, Promise(allowed, plan.target.confidence, True), float_scores)
    for point in points:
        judge(point.names)
    return [replace(point, true_drop=judge.known(point.names)) for point in points]


def _held_out(
    study: Study, points: Sequence[FrontierPoint], cost: CostModel | None, chosen: tuple[str, ...]
) -> tuple[FrontierPoint, ...]:
    """Return the same points with holdout accuracy where some target would choose the set, as far
    as samples allow. chosen: the plan's own set, which is always measured."""
    measurer, aggregate = study.measurer, study.measurer.task.aggregate
    (float_scores,) = measurer.scores([study.float_variant], "holdout", "frontier: float")
    affordable = HOLDOUT_SAMPLES // max(len(float_scores), 1)
    wanted = [point.names for point in best_points(points, cost)][:affordable]
    sets = list(dict.fromkeys([chosen, *wanted]))
    variants = [study.skip_variant(skip) for skip in sets]
    measured = measurer.scores(variants, "holdout", "frontier: holdout")
    scores = dict(zip(sets, measured, strict=True))
    return tuple(
        replace(
            point,
            holdout=estimate(scores[point.names], aggregate),
            holdout_drop=gain(scores[point.names], float_scores, aggregate),
        )
        if point.names in scores
        else point
        for point in points
    )


def best_points(points: Sequence[FrontierPoint], cost: CostModel | None) -> list[FrontierPoint]:
    """Return those that no other one beats in both cost and drop, the cheapest first."""
    order = sorted(points, key=lambda point: (cost_of(point.names, cost), point.likely_drop))
    best: list[FrontierPoint] = []
    for point in order:
        if not best or point.likely_drop < best[-1].likely_drop:
            best.append(point)
    return best


def confirm_values(study: Study, points: Sequence[FrontierPoint]) -> np.ndarray:
    """float[1 + points, m]: values on `confirm` whose mean is the metric, of float first and then
    of each point."""
    variants = [study.float_variant, *(study.skip_variant(point.names) for point in points)]
    scores = study.measurer.scores(variants, "confirm", "frontier: confirm")
    aggregate = study.measurer.task.aggregate
    return np.stack([centred_values(values, aggregate) for values in scores])


def centred_values(scores: Scores, aggregate: Callable[[Scores], float]) -> np.ndarray:
    """float[m]: values of single samples, moved so that their mean is the metric: pseudo-values of
    mAP alone are tenths off."""
    values = per_sample(scores, aggregate)
    return np.asarray(values + (aggregate(scores) - values.mean()))


def correction(
    values: np.ndarray,
    points: Sequence[FrontierPoint],
    chosen: tuple[str, ...],
    floor: float,
    cost: CostModel | None,
) -> Estimate | None:
    """Return the drop of the set `chosen` on `confirm`, corrected for choosing it there; as it is
    for one set, where nothing was chosen. None where the set was not measured on all of it.

    values: of `confirm_values`. The interval is at least as wide as that of the plain paired drop:
    a bootstrap of samples that all agree would have none.
    """
    plain = next((point.drop for point in points if point.names == chosen), None)
    if plain is None or len(points) < 2:
        return plain
    costs = [cost_of(point.names, cost) for point in points]
    return widened(
        corrected_drop(values[0], values[1:], costs, float(values[0].mean()) - floor), plain
    )


def replanned(
    earlier: Plan,
    frontier: Frontier,
    values: np.ndarray,
    target: Target,
    units: Sequence[Unit],
    quantizers: Sequence[Quantizer],
) -> Plan | None:
    """Return the cheapest measured set that meets another target; None where none does, where only
    float itself does, and where its holdout is not known.

    earlier: the plan of the same search, whose baselines and recalibrated units it keeps.
    """
    floor = target.floor(earlier.metric.float.value)
    allowed = earlier.metric.float.value - floor
    order = sorted(frontier.points, key=lambda point: cost_of(point.names, frontier.cost))
    found = first_that_meets(order, target, earlier.metric.float.value)
    if found is None or found.holdout is None or found.holdout_drop is None:
        return None
    if len(found.skip) == len(units) and found.names != earlier.names:
        # float itself, which every search tries: a search for this target may find less
        return None
    disabled = skip_variant(found.skip, units).disabled
    known = found.names == earlier.names
    return replace(
        earlier,
        skip=found.skip,
        widened=tuple(Widened(unit, frontier.wide[unit]) for unit in found.wide),
        quantizers=tuple(name for name in names_of(quantizers) if name in disabled),
        met=True,
        target=target,
        floor=floor,
        metric=replace(
            earlier.metric,
            confirm=found.confirm,
            holdout=found.holdout,
            holdout_drop=found.holdout_drop,
            true_drop=found.true_drop,
            confirm_drop=correction(values, frontier.points, found.names, floor, frontier.cost),
        ),
        path=tuple(
            PlanStep(
                point.skip,
                earlier.metric.float.value - point.likely_drop,
                _meets(point, floor, allowed, target),
                point.confirm.n,
                point.wide,
            )
            for point in frontier.points
        ),
        reason=None,
        try_next=(),
        notes=(FROM_MEASURED.format(len(frontier.points)),),
        predicted_ms=found.predicted_ms,
        measured_ms=found.measured_ms or (earlier.measured_ms if known else None),
        advice=None,
    )


def first_that_meets(
    points: Sequence[FrontierPoint], target: Target, float_value: float
) -> FrontierPoint | None:
    """float_value: the metric of float on `confirm`."""
    floor = target.floor(float_value)
    allowed = float_value - floor
    return next((point for point in points if _meets(point, floor, allowed, target)), None)


def _meets(point: FrontierPoint, floor: float, allowed: float, target: Target) -> bool:
    """Return whether a set meets the target, as the judge of a search would say it."""
    if point.true_drop is None:
        return point.confirm.value >= floor
    chance = chance_below(point.true_drop, allowed)
    return chance is not None and chance >= target.confidence


FROM_MEASURED = (
    "Taken from {} skip-sets that were measured before, without a new one; --search "
    "looks for a cheaper one between them."
)
