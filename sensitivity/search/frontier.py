"""The curve of all skip-sets that a search measured, and plans for other targets taken from it.

Holdout is measured for the sets that some target would choose, whatever their accuracy on it. A
choice among them for a new target then needs no sample, and it still does not look at holdout.
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
    InFp8,
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
from sensitivity.search.borders import border_notes
from sensitivity.search.judge import can_tell, told_from
from sensitivity.search.soft_judge import Promise, SoftJudge
from sensitivity.stats.proof import chance_below, widened
from sensitivity.stats.selection import corrected_drop

HOLDOUT_SAMPLES, LARGE_ON_HOLDOUT = 5_000, 100
"""Number of samples to forward on `holdout` for the sets of the curve, at most, besides those of
the plan itself; the second if samples are large."""


@dataclass(frozen=True)
class Frontier:
    """Sets that a search measured, kept for other targets.

    points: the sets, in the order tried.
    search: settings of the search; another target with the same settings may be answered from it.
    cost: cost model of skip-sets; None if units were counted.
    wide, fp8: as in `Study`.
    told_from: see `search.judge.told_from`; None in files of earlier versions too.
    """

    points: tuple[FrontierPoint, ...]
    search: dict[str, str]
    cost: CostModel | None
    wide: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    fp8: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    told_from: float | None = None

    def judges_alike(self, allowed: float, other: float) -> bool:
        """Return whether searches for these two allowed drops judge sets by the same drop."""
        return can_tell(allowed, self.told_from) == can_tell(other, self.told_from)


def measured_frontier(
    study: Study, plan: Plan, cost: CostModel | None, samples: int = HOLDOUT_SAMPLES
) -> tuple[FrontierPoint, ...]:
    """Return the sets of the plan's path that were measured on all of `confirm`, which include
    everything in INT8.

    samples: number of samples to forward on `holdout`, as in `HOLDOUT_SAMPLES`.
    """
    measurer, aggregate = study.measurer, study.measurer.task.aggregate
    (float_scores,) = measurer.scores([study.float_variant], "confirm", "frontier: float")
    points = []
    for step in plan.path:
        scores = measurer.known(study.skip_variant(step.names), "confirm")
        if len(scores) == len(float_scores):
            drop = gain(scores, float_scores, aggregate)
            level = estimate(scores, aggregate)
            ms = predicted_ms(step.names, cost)
            point = FrontierPoint(step.skip, level, drop, predicted_ms=ms)
            points.append(replace(point, wide=step.wide, fp8=step.fp8))
    points = _with_true_drops(study, plan, points, float_scores)
    return _held_out(study, points, cost, plan.names, samples)


def _with_true_drops(
    study: Study, plan: Plan, points: Sequence[FrontierPoint], float_scores: Scores
) -> list[FrontierPoint]:
    """Return the same points with their true drops, if the search judged by them.

    A plan that is float itself has none, but the sets that were tried before it have.
    """
    allowed = plan.metric.float.value - plan.floor
    if not can_tell(allowed, told_from(study.measurer.task)):
        return list(points)
    is_part = study.measurer.uses_part("confirm")
    promise = Promise(allowed, plan.target.confidence, True, is_part)
    judge = SoftJudge(study, promise, float_scores)
    for point in points:
        judge(point.names)
    return [replace(point, true_drop=judge.known(point.names)) for point in points]


def _held_out(
    study: Study,
    points: Sequence[FrontierPoint],
    cost: CostModel | None,
    chosen: tuple[str, ...],
    samples: int,
) -> tuple[FrontierPoint, ...]:
    """Return the same points, with holdout accuracy for the sets that some target would choose, as
    far as the number of samples allows, those nearest to the plan's first.

    chosen: the plan's own set, which is always measured.
    samples: as for `measured_frontier`.
    """
    measurer, aggregate = study.measurer, study.measurer.task.aggregate
    (float_scores,) = measurer.scores([study.float_variant], "holdout", "frontier: float")
    affordable = samples // max(len(float_scores), 1)
    best = [point.names for point in best_points(points, cost) if point.names != chosen]
    nearest = sorted(best, key=lambda names: abs(len(names) - len(chosen)))
    sets = [chosen, *nearest[:affordable]]
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
    """Return the points that no other point beats in both cost and drop, the cheapest first."""
    order = sorted(points, key=lambda point: (cost_of(point.names, cost), point.likely_drop))
    best: list[FrontierPoint] = []
    for point in order:
        if not best or point.likely_drop < best[-1].likely_drop:
            best.append(point)
    return best


def confirm_values(study: Study, points: Sequence[FrontierPoint]) -> np.ndarray:
    """Return values on `confirm` whose mean is the metric, float[1 + points, m]: those of float
    first, then those of each point."""
    variants = [study.float_variant, *(study.skip_variant(point.names) for point in points)]
    scores = study.measurer.scores(variants, "confirm", "frontier: confirm")
    aggregate = study.measurer.task.aggregate
    return np.stack([centred_values(values, aggregate) for values in scores])


def centred_values(scores: Scores, aggregate: Callable[[Scores], float]) -> np.ndarray:
    """Return values of single samples, moved so that their mean is the metric, float[m].

    Without the move, the mean of pseudo-values of mAP is off by tenths.
    """
    values = per_sample(scores, aggregate)
    return np.asarray(values + (aggregate(scores) - values.mean()))


def correction(
    values: np.ndarray,
    points: Sequence[FrontierPoint],
    chosen: tuple[str, ...],
    floor: float,
    cost: CostModel | None,
    *,
    by_count: bool,
) -> Estimate | None:
    """Return the drop of the set `chosen` on `confirm`, corrected for having chosen it there.

    A single set was not chosen among others, and a set that was chosen by its true drop was not
    chosen for its luck on `confirm`, so their drops are returned unchanged. The interval is at
    least as wide as that of the plain paired drop, because a bootstrap of samples that all agree
    would have no width. Returns None if the set was not measured on all of `confirm`.

    values: values of `confirm_values`.
    floor: metric that the target asks for.
    by_count: whether the drops counted on `confirm` chose the set.
    """
    plain = next((point.drop for point in points if point.names == chosen), None)
    if plain is None or len(points) < 2 or not by_count:
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
    """Return a plan for another target with the cheapest measured set that meets it.

    Returns None if no set meets the target, if only float itself does, if the set's holdout
    accuracy is not known, or if a search for this target judges otherwise than the earlier one.

    earlier: plan of the same search, whose baselines and recalibrated units are kept.
    values: values of `confirm_values`.
    """
    floor = target.floor(earlier.metric.float.value)
    allowed = earlier.metric.float.value - floor
    if not frontier.judges_alike(allowed, earlier.metric.float.value - earlier.floor):
        return None
    order = sorted(frontier.points, key=lambda point: cost_of(point.names, frontier.cost))
    chosen = first_that_meets(order, target, earlier.metric.float.value)
    if chosen is None or chosen.holdout is None or chosen.holdout_drop is None:
        return None
    if len(chosen.skip) == len(units) and chosen.names != earlier.names:
        # Every search tries float itself; a search for this target may find a smaller set.
        return None
    disabled = skip_variant(chosen.skip, units).disabled
    known = chosen.names == earlier.names
    metric = replace(
        earlier.metric,
        confirm=chosen.confirm,
        holdout=chosen.holdout,
        holdout_drop=chosen.holdout_drop,
        true_drop=earlier.metric.true_drop if known else chosen.true_drop,
        is_float=known and earlier.metric.is_float,
    )
    corrected = correction(
        values,
        frontier.points,
        chosen.names,
        floor,
        frontier.cost,
        by_count=metric.chosen_by_count,
    )
    return replace(
        earlier,
        skip=chosen.skip,
        widened=tuple(Widened(unit, frontier.wide[unit]) for unit in chosen.wide),
        in_fp8=tuple(InFp8(unit, frontier.fp8[unit]) for unit in chosen.fp8),
        raised=frontier.cost.raised(chosen.names) if frontier.cost else (),
        quantizers=tuple(name for name in names_of(quantizers) if name in disabled),
        met=True,
        target=target,
        floor=floor,
        metric=replace(metric, confirm_drop=corrected),
        path=tuple(
            PlanStep(
                point.skip,
                earlier.metric.float.value - point.likely_drop,
                _meets(point, floor, allowed, target),
                point.confirm.n,
                point.wide,
                point.fp8,
            )
            for point in frontier.points
        ),
        reason=None,
        try_next=(),
        notes=(
            from_measured(len(frontier.points)),
            *border_notes(chosen.names, frontier.cost),
        ),
        predicted_ms=chosen.predicted_ms,
        measured_ms=chosen.measured_ms or (earlier.measured_ms if known else None),
        advice=None,
    )


def first_that_meets(
    points: Sequence[FrontierPoint], target: Target, float_value: float
) -> FrontierPoint | None:
    """Return the first of these points that meets the target, or None.

    float_value: metric of the float model on `confirm`.
    """
    floor = target.floor(float_value)
    allowed = float_value - floor
    return next((point for point in points if _meets(point, floor, allowed, target)), None)


def _meets(point: FrontierPoint, floor: float, allowed: float, target: Target) -> bool:
    """Return whether a set meets the target, as the judge of a search would say."""
    if point.true_drop is None:
        return point.confirm.value >= floor
    chance = chance_below(point.true_drop, allowed)
    return chance is not None and chance >= target.confidence


def from_measured(sets: int) -> str:
    """Return a note on a plan for which nothing was searched.

    sets: number of skip-sets that it was chosen from.

    >>> from_measured(1)
    'Chosen from the only skip-set that was measured before; --search looks for a cheaper one.'
    """
    if sets == 1:
        return (
            "Chosen from the only skip-set that was measured before; --search looks for a cheaper "
            "one."
        )
    return (
        f"Chosen from {sets} skip-sets that were measured before; --search looks for a cheaper one "
        "between them."
    )
