"""Searches for a plan on `confirm`, in the order of a ranking, and judges the result once on
`holdout`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sensitivity.errors import ModelError
from sensitivity.measure.measurer import Measurer
from sensitivity.measure.ranking import estimate, gain
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.planners.base import (
    Choice,
    Distortion,
    Goal,
    Judge,
    Planner,
    Probe,
    Skip,
    wants_cost,
)
from sensitivity.planners.cost import CostPlanner
from sensitivity.planners.culprits import CulpritPlanner
from sensitivity.planners.formats import Chains, FormatsPlanner
from sensitivity.planners.greedy import GreedyPlanner
from sensitivity.planners.interpolated import InterpolatedPlanner
from sensitivity.planners.pinned import PinnedPlanner
from sensitivity.planners.rule import by_hand
from sensitivity.records import (
    CostModel,
    Estimate,
    Plan,
    PlanMetric,
    PlanStep,
    Scores,
    Target,
    parts_of_set,
    predicted_ms,
)
from sensitivity.registry import load
from sensitivity.search.borders import border_notes
from sensitivity.search.formats import (
    chains_of,
    cheaper_by_steps,
    order_of_steps,
    spared_fraction,
)
from sensitivity.search.judge import float_scores_of, judge_of, told_from
from sensitivity.search.part import grow_part
from sensitivity.search.rerank import (
    SIGNAL_SAMPLES,
    Enough,
    Order,
    by_signal,
    distortion_of,
    reranked,
)
from sensitivity.search.soft_judge import SoftJudge
from sensitivity.signals.base import Signal
from sensitivity.tasks.base import Task, mean
from sensitivity.units.units import Pins


@dataclass(frozen=True)
class SearchOptions:
    """How a plan is searched for.

    planner: a name in the registry.
    cost: cost model of skip-sets; None counts units.
    probe: measures whole engines; None if that is not asked for.
    signal: orders the units anew after each one that is left out; None keeps the scan's order.
    alone: unit -> the signal when it alone is quantized; None measures it.
    ends: units of each end of the graph, the nearest first.
    may_grow: whether more of `confirm` may be used if the part in use settles nothing.
    samples: number of samples on which `signal` compares sets.
    """

    planner: str = GreedyPlanner.name
    cost: CostModel | None = None
    probe: Probe | None = None
    signal: Signal | None = None
    alone: Mapping[str, float] | None = None
    ends: Sequence[Sequence[str]] = ()
    may_grow: bool = False
    samples: int = SIGNAL_SAMPLES


def choose_plan(
    study: Study,
    scanned: Scan,
    target: Target,
    options: SearchOptions = SearchOptions(),
    fixed: Pins = Pins(),
) -> Plan:
    """Return the cheapest skip-set found that meets the target, with its evidence.

    After a raced scan the search is guided by the scan's signal, and it stops measuring a set once
    the answer is clear. If units of the study may have other formats and there is a plan without
    them, a second search tries them, and the cheaper plan is taken.

    scanned: effects of the units, from which the ranking comes.
    target: accuracy that the plan has to reach.
    options: how to search.
    fixed: units that the user has decided about.
    """
    search = _Search(study, scanned, target, options, fixed)
    found, has_grown = search.run(), False
    while options.may_grow and found.wants_more(len(study.units), has_grown):
        has_grown = grow_part(study.measurer)
        if not has_grown:
            break
        found = search.run()
    choice, notes = found.choice, (*found.notes, *_too_small(study, found))
    variant, parts = study.skip_variant(choice.skip), parts_of_set(choice.skip)
    metric = _metric_of(study, found.judge, found.float_scores, choice.skip)
    if found.tries_formats and not (parts.wide or parts.fp8):
        notes = (*notes, _nothing_in_formats(study))
    return Plan(
        skip=parts.skip,
        quantizers=tuple(q.name for q in study.quantizers if q.name in variant.disabled),
        met=choice.met,
        target=target,
        floor=found.goal.floor,
        metric=metric,
        path=tuple(_by_precision(step) for step in choice.path),
        planner=found.planner.name,
        reason=None if choice.met else _reason(choice, target, metric),
        try_next=() if choice.met else TRY_NEXT,
        notes=(
            *notes,
            *choice.notes,
            *([options.cost.note] if options.cost and options.cost.note else []),
            *border_notes(choice.skip, options.cost),
        ),
        predicted_ms=predicted_ms(choice.skip, options.cost),
        measured_ms=choice.ms.get(choice.skip),
        widened=study.widened(choice.skip),
        in_fp8=study.in_fp8(choice.skip),
        raised=options.cost.raised(choice.skip) if options.cost else (),
    )


def _too_small(study: Study, found: _Result) -> Iterator[str]:
    """Yield why the counted drop chose the plan, if the target is all that kept the true drop from
    it."""
    task, allowed = study.measurer.task, found.goal.start - found.goal.floor
    least = told_from(task)
    if least is not None and 0 <= allowed < least:
        yield (
            "The plan was chosen by what was counted on confirm: float's own answers cannot tell "
            f"drops of {task.metric} below {least / task.full_scale:.0%} of its full scale."
        )


@dataclass(frozen=True)
class _Result:
    """The result of a search on the part of `confirm` in use.

    float_scores: scores of the float model on that part.
    tries_formats: whether sets with other formats than float were tried too.
    notes: what is unusual about the order of the units, one sentence each.
    """

    choice: Choice
    judge: Judge
    planner: Planner
    goal: Goal
    float_scores: Scores
    tries_formats: bool
    notes: tuple[str, ...]

    def wants_more(self, units: int, has_grown: bool) -> bool:
        """Return whether more samples are worth measuring: no set but float itself meets the
        target, or the plan leaves more than half of the units out.

        A plan that still does so after the first doubling hardly gains from another one
        (`docs/statistics.md`).

        units: number of all units.
        has_grown: whether the part in use was doubled already.
        """
        left_out = len(self.choice.skip)
        if not self.choice.met or left_out == units:
            return True
        return not has_grown and 2 * left_out > units


@dataclass(frozen=True)
class _Search:
    """A search that can be made on any part of `confirm`; the attributes are those of
    `choose_plan`."""

    study: Study
    scanned: Scan
    target: Target
    options: SearchOptions
    fixed: Pins

    def run(self) -> _Result:
        """Search on the part of `confirm` in use."""
        study, options, fixed = self.study, self.options, self.fixed
        float_scores = float_scores_of(study)
        start = study.measurer.aggregate(float_scores)
        judge = judge_of(study, self.target, float_scores, self.scanned)
        enough = _enough(study, self.scanned, options, judge, fixed)
        order, distortion, notes = _order(study, self.scanned, options, enough)
        free = _planner(options, order, self.scanned, judge, study.measurer.task)
        planner = PinnedPlanner(free, fixed.skip, fixed.keep)
        goal = Goal(
            self.target.floor(start),
            start,
            options.cost,
            order.signal,
            options.probe,
            distortion,
            by_hand(study.units, options.ends),
        )
        choice = planner.choose(order.units, judge, goal)
        outside = set(choice.skip) - set(fixed.skip)
        may_cost_less = bool(choice.met and planner.searches and outside)
        tries_formats = may_cost_less and bool(study.formats)
        if tries_formats or (may_cost_less and _ignores_cost(options)):
            spared = spared_fraction(study, options.signal)
            chains = chains_of(spared)
            order = order_of_steps(order, chains, spared, options.cost)
            steps = self._planner_of_steps(chains, order, judge)
            choice = cheaper_by_steps(choice, order, steps, judge, goal)
        # A probe has compared whole engines, and its choice stands.
        if isinstance(judge, SoftJudge) and options.probe is None and planner.searches:
            choice = judged_again(choice, judge, goal)
        return _Result(choice, judge, planner, goal, float_scores, tries_formats, notes)

    def _planner_of_steps(self, chains: Chains, order: Order, judge: Judge) -> FormatsPlanner:
        """Return the same planner for steps, see `planners.formats`.

        order: order of the steps.
        judge: the judge of the search.
        """
        ends = [[chains.get(unit, (unit,))[0] for unit in end] for end in self.options.ends]
        options = replace(self.options, ends=ends)
        planner = _planner(options, order, self.scanned, judge, self.study.measurer.task)
        return FormatsPlanner(PinnedPlanner(planner, self.fixed.skip, self.fixed.keep), chains)


def _by_precision(step: PlanStep) -> PlanStep:
    """Return the step with its units apart by what they run in."""
    parts = parts_of_set(step.skip)
    return replace(step, skip=parts.skip, wide=parts.wide, fp8=parts.fp8)


def _metric_of(
    study: Study, judge: Judge, float_scores: Scores, skip: tuple[str, ...]
) -> PlanMetric:
    """Return the accuracy of a set on `confirm` and `holdout`.

    judge: the judge of the search.
    float_scores: scores of the float model on all of `confirm`.
    """
    measurer, base, variant = study.measurer, study.baselines, study.skip_variant(skip)
    # It comes first, because one forward gives it the scores as well.
    true_drop = judge.with_holdout(skip) if isinstance(judge, SoftJudge) else None
    (confirmed,) = measurer.scores([variant], "confirm", "plan: confirm")
    held_out = measurer.scores([base["float"], variant], "holdout", "plan: holdout")
    # Every planner judges the empty set first, so at least a part of the quantized baseline is
    # known.
    metric = _metric(
        measurer, float_scores, measurer.known(base["quantized"], "confirm"), confirmed, *held_out
    )
    is_float = variant.disabled == study.float_variant.disabled
    return replace(metric, true_drop=true_drop, is_float=is_float)


def judged_again(choice: Choice, judge: SoftJudge, goal: Goal) -> Choice:
    """Return the cheapest set tried that meets the target by all that is known now; the planner's
    own choice if it still meets it and none is cheaper, or if no set does.

    Each set was judged with what the sets before it said about float's beliefs, so a later set may
    change the answer.
    """
    known = [step.skip for step in choice.path if judge.known(step.skip) is not None]
    met = list(filter(judge.meets, known))
    if not met:
        return choice
    best = min(met, key=goal.cost_of)
    stands = choice.met and (choice.skip in met or choice.skip not in known)
    if stands and goal.cost_of(best) >= goal.cost_of(choice.skip):
        return choice
    path = tuple(
        replace(step, met=step.skip in met) if step.skip in known else step for step in choice.path
    )
    return replace(choice, skip=best, met=True, path=path)


def _planner(
    options: SearchOptions, order: Order, scanned: Scan, judge: Judge, task: Task
) -> Planner:
    """Return the planner of a search, as the scan suggests.

    If the model has collapsed with everything in INT8, it looks for the few units that cause this.
    Otherwise, greedy after a raced scan becomes a search for a prefix of the order, guided by the
    signal, if the metric is a mean or the judge goes by the true drop: how surely a set meets the
    target is not known of others.
    """
    is_sure = task.aggregate is mean or isinstance(judge, SoftJudge)
    if scanned.collapsed:
        culprits = CulpritPlanner(options.ends, order.signal if is_sure else None)
        if options.planner == GreedyPlanner.name:
            return culprits
        if options.planner == CostPlanner.name:
            return CostPlanner(culprits)
    is_guided = bool(scanned.signal) and is_sure
    if is_guided and options.planner == GreedyPlanner.name:
        return InterpolatedPlanner(order.signal)
    planner: Planner = load("planners", options.planner)()
    return planner


def _ignores_cost(options: SearchOptions) -> bool:
    """Return whether units have a cost that the planner does not look at."""
    return options.cost is not None and not wants_cost(options.planner)


def _enough(
    study: Study, scanned: Scan, options: SearchOptions, judge: Judge, fixed: Pins
) -> Enough | None:
    """Return a function that says whether the first units of an order meet the target, which then
    needs no further units; None if the planner looks at more of the order than that.

    Only the prefixes that the greedy planner begins with are judged: none, 1, 2, 4, ... units.
    """
    if options.planner != GreedyPlanner.name or study.formats or scanned.collapsed:
        return None
    pinned = {*fixed.skip, *fixed.keep}

    def enough(chosen: Skip) -> bool:
        free = [unit for unit in chosen if unit not in pinned]
        is_tried = len(free).bit_count() <= 1
        return is_tried and judge((*fixed.skip, *free)).met

    return enough


def _order(
    study: Study, scanned: Scan, options: SearchOptions, enough: Enough | None
) -> tuple[Order, Distortion | None, tuple[str, ...]]:
    """Return the order in which units are left out, a function that compares the outputs of sets,
    and notes on an unusual order.

    The function is None unless the model has collapsed and outputs can be compared.

    enough: ends the ranking early, see `_enough`.
    """
    ranked = _ranked(scanned)
    notes = (COLLAPSED,) if scanned.collapsed else ()
    needs_no_order = enough is not None and enough(())
    if options.signal is None or needs_no_order:
        return ranked, None, notes
    try:
        if scanned.collapsed:
            order = by_signal(study, options.signal, options.alone)
            return order, distortion_of(study, options.signal), notes
        order = reranked(study, options.signal, options.alone, enough, samples=options.samples)
        return order, None, notes
    except ModelError as error:
        return ranked, None, (f"The layers could not be ranked again during the search: {error}",)


def _ranked(scanned: Scan) -> Order:
    """Return the order of the scan, with its signal, or without one with the gain from leaving each
    unit out."""
    gains = {effect.unit: max(effect.effect.value, 0.0) for effect in scanned.effects}
    return Order(tuple(gains), scanned.signal or gains)


def _nothing_in_formats(study: Study) -> str:
    """Return the note that no plan with the study's other formats costs less."""
    if study.wide and study.fp8:
        return NOTHING_IN_FORMATS.format("FP8 and 16-bit activations were", "them")
    if study.fp8:
        return NOTHING_IN_FORMATS.format("FP8 was", "it")
    return NOTHING_IN_FORMATS.format("16-bit activations were", "them")


NOTHING_IN_FORMATS = (
    "{} tried in place of float, but no plan with {} that meets the target costs less."
)

COLLAPSED = (
    "With everything in INT8 the outputs are noise, so what one layer changes says little. The "
    "search looked for the few layers that ruin them, among those that hurt most when they alone "
    "are quantized and at both ends of the graph, and put back what the target does not need."
)


TRY_NEXT = (
    "a looser target (--max-drop or --target)",
    "another calibration (more images, or percentile, MSE or entropy ranges), then a new scan",
    "quantization-aware training",
)


def _metric(
    measurer: Measurer,
    float_: Scores,
    quantized: Scores,
    confirm: Scores,
    held_out_float: Scores,
    held_out: Scores,
) -> PlanMetric:
    def estimated(scores: Scores) -> Estimate:
        return estimate(scores, measurer.task.aggregate)

    drop = gain(held_out, held_out_float, measurer.task.aggregate)
    return PlanMetric(
        measurer.task.metric,
        estimated(float_),
        estimated(quantized),
        estimated(confirm),
        estimated(held_out),
        estimated(held_out_float),
        drop,
    )


def _reason(choice: Choice, target: Target, metric: PlanMetric) -> str:
    floor = target.floor(metric.float.value)
    if metric.float.value < floor:
        return (
            f"the float model itself reaches {metric.float.value:.4f} on confirm, below the target "
            f"of {floor:.4f}"
        )
    if metric.true_drop is not None:
        return (
            f"of the skip-sets tried ({len(choice.path)}), none meets the target with a "
            f"probability of {target.confidence:.0%}; the best one loses about "
            f"{metric.true_drop.value:.4f}, where {metric.float.value - floor:.4f} is allowed"
        )
    return (
        f"of the skip-sets tried ({len(choice.path)}), the best one reaches "
        f"{metric.confirm.value:.4f} on confirm, below the target of {floor:.4f}"
    )
