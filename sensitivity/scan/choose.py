"""From a ranking to a plan: the planner searches on `confirm`, the result is judged once on `holdout`."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.planners.base import Choice, Planner
from sensitivity.records import Estimate, Plan, PlanMetric, Quantizer, Scores, Target, Unit
from sensitivity.scan.engine import Measurer
from sensitivity.scan.ranking import estimate, gain
from sensitivity.scan.variants import baselines, skip_variant


def choose_plan(
    measurer: Measurer,
    units: Sequence[Unit],
    quantizers: Sequence[Quantizer],
    ranking: Sequence[str],
    planner: Planner,
    target: Target,
) -> Plan:
    """The planner's skip-set with its evidence. ranking: unit names, most sensitive first."""
    base = baselines(quantizers)
    float_scores, int8_scores = measurer.scores([base["float"], base["quantized"]], "confirm", "plan: baselines")
    floor = target.floor(measurer.aggregate(float_scores))

    def evaluate(skip: tuple[str, ...]) -> float:
        return measurer.metric(skip_variant(skip, units), "confirm", f"plan: {len(skip)} units skipped")

    choice = planner.choose(ranking, evaluate, floor)
    variant = skip_variant(choice.skip, units)
    (confirmed,) = measurer.scores([variant], "confirm", "plan: confirm")
    held = measurer.scores([base["float"], variant], "holdout", "plan: holdout")
    return Plan(
        skip=choice.skip,
        quantizers=tuple(q.name for q in quantizers if q.name in variant.disabled),
        met=choice.met,
        target=target,
        floor=floor,
        metric=_metric(measurer, float_scores, int8_scores, confirmed, *held),
        path=choice.path,
        planner=planner.name,
        reason=None if choice.met else _reason(choice, floor, measurer.aggregate(float_scores)),
        try_next=() if choice.met else TRY_NEXT,
    )


TRY_NEXT = (
    "a looser target (--max-drop or --target)",
    "another calibration (more images, or percentile, MSE or entropy ranges), then a new scan",
    "quantization-aware training",
)


def _metric(
    measurer: Measurer, float_: Scores, quantized: Scores, confirm: Scores, held_float: Scores, held: Scores
) -> PlanMetric:
    def one(scores: Scores) -> Estimate:
        return estimate(scores, measurer.task.aggregate)

    drop = gain(held, held_float, measurer.task.aggregate)
    return PlanMetric(measurer.task.metric, one(float_), one(quantized), one(confirm), one(held), one(held_float), drop)


def _reason(choice: Choice, floor: float, float_metric: float) -> str:
    if float_metric < floor:
        return f"the float model itself reaches {float_metric:.4f} on confirm, under the target of {floor:.4f}"
    return f"the best of {len(choice.path)} skip-sets tried reaches {choice.metric:.4f} on confirm, under the target of {floor:.4f}"
