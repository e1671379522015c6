"""From a ranking to a plan: the planner searches on `confirm`, the result is judged once on `holdout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.errors import ModelError
from sensitivity.planners.base import Choice, Goal, Judge, Planner, Probe
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.interpolated import InterpolatedPlanner
from sensitivity.planners.pinned import PinnedPlanner
from sensitivity.quantizers.units import Pins
from sensitivity.records import CostModel, Estimate, Plan, PlanMetric, Quantizer, Scores, Target, Unit
from sensitivity.registry import load
from sensitivity.scan.engine import Measurer
from sensitivity.scan.judge import SequentialJudge, SplitJudge
from sensitivity.scan.ranking import estimate, gain
from sensitivity.scan.rerank import Order, by_signal, reranked
from sensitivity.scan.scan import Scan
from sensitivity.scan.variants import baselines, skip_variant
from sensitivity.signals.base import Signal


@dataclass(frozen=True)
class Means:
    """How a plan is searched for. planner: a name in the registry. cost: of a skip-set; None counts units.

    probe: measures whole engines; None where that is not asked for. signal: orders the units anew after each that is left
    out; None keeps the scan's order. alone: unit -> that signal when it alone is quantized; measured where it is None.
    """

    planner: str = "greedy"
    cost: CostModel | None = None
    probe: Probe | None = None
    signal: Signal | None = None
    alone: Mapping[str, float] | None = None


def choose_plan(
    measurer: Measurer,
    units: Sequence[Unit],
    quantizers: Sequence[Quantizer],
    scanned: Scan,
    target: Target,
    means: Means = Means(),
    fixed: Pins = Pins(),
) -> Plan:
    """The cheapest skip-set found that meets the target, with its evidence.

    fixed: units that the user has decided about.

    After a raced scan the search is guided by its signal and stops measuring a set once the answer is clear.
    """
    base = baselines(quantizers)
    (float_scores,) = measurer.scores([base["float"]], "confirm", "plan: float")
    floor = target.floor(measurer.aggregate(float_scores))
    order, notes = _order(measurer, units, quantizers, scanned, means)
    planner = PinnedPlanner(_planner(means.planner, order, scanned), fixed.skip, fixed.keep)
    judge: Judge = (
        SequentialJudge(measurer, units, floor, float_scores) if scanned.signal else SplitJudge(measurer, units, floor)
    )
    goal = Goal(floor, measurer.aggregate(float_scores), means.cost, order.signal, means.probe)
    choice = planner.choose(order.units, judge, goal)
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
        notes=(*notes, *choice.notes, *([means.cost.note] if means.cost and means.cost.note else [])),
        predicted_ms=means.cost.of(choice.skip) if means.cost and means.cost.unit == "ms" else None,
        measured_ms=choice.ms.get(choice.skip),
    )


def _planner(name: str, order: Order, scanned: Scan) -> Planner:
    """After a raced scan a prefix of the order. Its signal says which one to try; not where the loss of everything in
    INT8 is as large as it can be, and so not in proportion to it."""
    if name == "greedy" and scanned.signal:
        return GreedyPlanner(prefix=True) if scanned.collapsed else InterpolatedPlanner(order.signal)
    planner: Planner = load("planners", name)()
    return planner


def _order(
    measurer: Measurer, units: Sequence[Unit], quantizers: Sequence[Quantizer], scanned: Scan, means: Means
) -> tuple[Order, tuple[str, ...]]:
    """The order in which units are left out, with what each is worth; and a note where it could not be had anew."""
    names = [effect.unit for effect in scanned.effects]
    ranked = Order(tuple(names), scanned.signal or {one.unit: max(one.effect.value, 0.0) for one in scanned.effects})
    if means.signal is None:
        return ranked, ()
    try:
        if scanned.collapsed:
            return by_signal(measurer, units, quantizers, means.signal, means.alone), (COLLAPSED_ORDER,)
        return reranked(measurer, units, quantizers, means.signal, means.alone), ()
    except ModelError as error:
        return ranked, (f"The layers could not be ranked anew on the way: {error}",)


COLLAPSED_ORDER = (
    "With everything in INT8 the outputs are noise, and leaving out one layer more or less shows nothing: the layers were "
    "left out in the order of what each alone in INT8 does to the outputs."
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
