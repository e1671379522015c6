"""From a ranking to a plan: the planner searches on `confirm`, the result is judged once on `holdout`."""

from __future__ import annotations

from collections.abc import Sequence

from sensitivity.planners.base import Choice, Goal, Judge, Planner
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.interpolated import InterpolatedPlanner
from sensitivity.records import Estimate, Plan, PlanMetric, Quantizer, Scores, Target, Unit
from sensitivity.scan.engine import Measurer
from sensitivity.scan.judge import SequentialJudge, SplitJudge
from sensitivity.scan.ranking import estimate, gain
from sensitivity.scan.scan import Scan
from sensitivity.scan.variants import baselines, skip_variant


def choose_plan(
    measurer: Measurer,
    units: Sequence[Unit],
    quantizers: Sequence[Quantizer],
    scanned: Scan,
    target: Target,
) -> Plan:
    """The smallest skip-set found that meets the target, with its evidence.

    After a raced scan the search is guided by its signal and stops measuring a set once the answer is clear.
    """
    base = baselines(quantizers)
    (float_scores,) = measurer.scores([base["float"]], "confirm", "plan: float")
    floor = target.floor(measurer.aggregate(float_scores))
    planner: Planner = InterpolatedPlanner(scanned.signal) if scanned.signal else GreedyPlanner()
    judge: Judge = (
        SequentialJudge(measurer, units, floor, float_scores) if scanned.signal else SplitJudge(measurer, units, floor)
    )
    ranking = [effect.unit for effect in scanned.effects]
    choice = planner.choose(ranking, judge, Goal(floor, measurer.aggregate(float_scores)))
    variant = skip_variant(choice.skip, units)
    (confirmed,) = measurer.scores([variant], "confirm", "plan: confirm")
    held = measurer.scores([base["float"], variant], "holdout", "plan: holdout")
    return Plan(
        skip=choice.skip,
        quantizers=tuple(q.name for q in quantizers if q.name in variant.disabled),
        met=choice.met,
        target=target,
        floor=floor,
        # Every planner judges the empty set first: as much of the quantized baseline as that took is known.
        metric=_metric(measurer, float_scores, measurer.known(base["quantized"], "confirm"), confirmed, *held),
        path=choice.path,
        planner=planner.name,
        reason=None
        if choice.met
        else _reason(choice, floor, measurer.aggregate(float_scores), measurer.aggregate(confirmed)),
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


def _reason(choice: Choice, floor: float, float_metric: float, metric: float) -> str:
    if float_metric < floor:
        return f"the float model itself reaches {float_metric:.4f} on confirm, under the target of {floor:.4f}"
    return f"the best of {len(choice.path)} skip-sets tried reaches {metric:.4f} on confirm, under the target of {floor:.4f}"
