"""From a ranking to a plan: the planner searches on `confirm`, the result is judged once on `holdout`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.planners.base import Choice, Goal, Judge, Planner, Probe
from sensitivity.planners.interpolated import InterpolatedPlanner
from sensitivity.records import CostModel, Estimate, Plan, PlanMetric, Quantizer, Scores, Target, Unit
from sensitivity.registry import load
from sensitivity.scan.engine import Measurer
from sensitivity.scan.judge import SequentialJudge, SplitJudge
from sensitivity.scan.ranking import estimate, gain
from sensitivity.scan.scan import Scan
from sensitivity.scan.variants import baselines, skip_variant


@dataclass(frozen=True)
class Means:
    """How a plan is searched for. planner: a name in the registry. cost: of a skip-set; None counts units.

    probe: measures whole engines; None where that is not asked for.
    """

    planner: str = "greedy"
    cost: CostModel | None = None
    probe: Probe | None = None


def choose_plan(
    measurer: Measurer,
    units: Sequence[Unit],
    quantizers: Sequence[Quantizer],
    scanned: Scan,
    target: Target,
    means: Means = Means(),
) -> Plan:
    """The cheapest skip-set found that meets the target, with its evidence.

    After a raced scan the search is guided by its signal and stops measuring a set once the answer is clear.
    """
    base = baselines(quantizers)
    (float_scores,) = measurer.scores([base["float"]], "confirm", "plan: float")
    floor = target.floor(measurer.aggregate(float_scores))
    planner = _planner(means.planner, scanned)
    judge: Judge = (
        SequentialJudge(measurer, units, floor, float_scores) if scanned.signal else SplitJudge(measurer, units, floor)
    )
    ranking = [effect.unit for effect in scanned.effects]
    goal = Goal(floor, measurer.aggregate(float_scores), means.cost, _loss(scanned), means.probe)
    choice = planner.choose(ranking, judge, goal)
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
        notes=choice.notes,
        predicted_ms=means.cost.of(choice.skip) if means.cost and means.cost.unit == "ms" else None,
        measured_ms=choice.ms.get(choice.skip),
    )


def _planner(name: str, scanned: Scan) -> Planner:
    if name == "greedy" and scanned.signal:
        return InterpolatedPlanner(scanned.signal)
    planner: Planner = load("planners", name)()
    return planner


def _loss(scanned: Scan) -> dict[str, float]:
    """What each unit costs, as far as the scan says: its signal, or else its effect where that is above zero."""
    return scanned.signal or {effect.unit: max(effect.effect.value, 0.0) for effect in scanned.effects}


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
