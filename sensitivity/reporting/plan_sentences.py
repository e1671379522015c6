"""What a plan is, why, and what it reaches, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from sensitivity.records import AccuracyStatus, FrontierPoint, Plan, Range, Recalibrated, Verdict
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import (
    MetricFormat,
    count,
    includes_zero,
    listing,
    milliseconds,
    sure,
)
from sensitivity.reporting.kinds import is_moved, is_tuned, weights_alone
from sensitivity.reporting.outcome import parts_words
from sensitivity.stats.proof import chance_below


def _repair_words(plan: Plan) -> str:
    """Return what the units of a plan were given so that they can stay in INT8."""
    repairs = set[str]()
    for unit in plan.recalibrated:
        for old, new in unit.pairs:
            repairs.update(_given(old, new))
    return listing(tuple(sorted(repairs, reverse=True)), last="and")


def _given(old: Range, new: Range) -> Iterator[str]:
    """Yield what a repair gave one quantizer."""
    if is_moved(old, new):
        yield "new ranges"
    if new.bias is not None:
        yield "fine-tuned biases" if is_tuned(new) else "corrected biases"
    if new.rounding is not None:
        yield "learned rounding"


def plan_headline(plan: Plan, accuracy: AccuracyStatus, layers: int, metric: MetricFormat) -> str:
    """Return what the plan does and what that brings, or by how much it misses the target.

    accuracy: whether the target holds, by all evidence.
    layers: number of layers that the scan measured.
    """
    before, after = (
        metric.level(plan.metric.quantized.value),
        metric.level(plan.metric.confirm.value),
    )
    target = metric.target(plan.target)
    others = count(len(plan.recalibrated), "other" if plan.outside else "layer")
    left_out = f"{len(plan.skip)} of {count(max(layers, len(plan.skip)), 'layer')}"
    if plan.met:
        brings = f"brings {metric.name} from {before} to {after} on confirm"
        ending = _ending(plan, accuracy, metric)
        wide, fp8 = count(len(plan.wide), "layer"), count(len(plan.fp8), "layer")
        possible: tuple[tuple[Sequence[Any], str], ...] = (
            (plan.skip, f"leaving {left_out} out of INT8"),
            (plan.wide, f"giving {wide} activations of 16 bits"),
            (plan.fp8, f"putting {fp8} into FP8"),
            (plan.recalibrated, f"giving {others} {_repair_words(plan)}"),
        )
        changes = [words for units, words in possible if units]
        if not changes:
            return f"With nothing left out, {metric.name} is {after} on confirm{ending}."
        done = " and ".join(changes)
        nothing = "" if plan.outside else ", with nothing left out,"
        return f"{done[0].upper()}{done[1:]}{nothing} {brings}{ending}."
    if not plan.skip:
        return (
            f"The target of {target} is missed on confirm: {metric.name} is {before} in INT8, "
            "and no skip-set tried was better."
        )
    short = metric.change(plan.floor - plan.metric.confirm.value, sign=False)
    return (
        f"The target of {target} is missed on confirm by {short}: the best plan found leaves "
        f"{left_out} out of INT8 "
        f"and brings {metric.name} from {before} to {after}."
    )


def _ending(plan: Plan, accuracy: AccuracyStatus, metric: MetricFormat) -> str:
    """Return whether the target is met, by what has decided.

    The metric counted on `confirm` may be below the target although the true drop is within it.
    """
    target, drop = metric.target(plan.target), plan.metric.true_drop
    if drop is None:
        return ENDINGS[accuracy].format(target)
    lost = metric.change(drop.value, sign=False)
    return TRUE_ENDINGS[accuracy].format(lost, target)


ENDINGS: dict[AccuracyStatus, str] = {
    "met": ", which meets the target of {}",
    "not proven": ": the target of {} is met there, but it is not proven that it holds elsewhere",
    "missed": ": the target of {} is met there, but not on all samples together",
}
"""What `confirm` and the rest of the evidence say about a plan that met the target when chosen."""


TRUE_ENDINGS: dict[AccuracyStatus, str] = {
    "met": " as counted; its true drop, about {}, meets the target of {}",
    "not proven": " as counted; that its true drop, about {}, meets the target of {} is not proven",
    "missed": " as counted; its true drop, about {}, misses the target of {}",
}
"""The same for a plan that was chosen by its true drop."""


def levels_of(plan: Plan, metric: MetricFormat) -> Iterator[str]:
    """Yield the metric on `confirm` and on `holdout`, one sentence each."""
    results = plan.metric
    place, asked = "where the plan was chosen", f"the target asks for {metric.level(plan.floor)}, "
    if results.true_drop is not None:
        # The target is not for the counted level, which may be below it by chance.
        place, asked = "as counted", ""
    yield (
        f"On confirm, {place}: {metric.level_of(results.confirm)}; {asked}float has "
        f"{metric.level(results.float.value)}, INT8 as it was calibrated "
        f"{metric.level(results.quantized.value)}."
    )
    int8 = ""
    if results.holdout_quantized is not None:
        int8 = f", INT8 as it was calibrated {metric.level_of(results.holdout_quantized)}"
    yield (
        f"On holdout, which no choice used: {metric.level_of(results.holdout)}; float "
        f"has {metric.level(results.holdout_float.value)} there{int8}, so the drop is "
        f"{metric.change_of(results.holdout_drop)}."
    )


def plan_sentences(
    data: ReportData, plan: Plan, verdict: Verdict, metric: MetricFormat
) -> Iterator[str]:
    """Yield what the plan is, what else to try, and why it is this one."""
    yield from _contents(plan, verdict, metric)
    yield from _weights_alone(data, plan)
    yield from _why_out(data, plan, metric)
    yield from _why_these(data, plan, metric)


def _contents(plan: Plan, verdict: Verdict, metric: MetricFormat) -> Iterator[str]:
    """Yield what the plan is, what it costs, and what else to try."""
    yield from _behind_int8(plan, metric)
    if plan.skip:
        yield f"Left out: {listing(plan.skip)}."
    if plan.wide:
        yield f"With activations of 16 bits and weights as they are: {listing(plan.wide)}."
    if plan.fp8:
        yield f"In FP8, weights and activations: {listing(plan.fp8)}."
    if plan.recalibrated:
        yield f"In INT8 with {_repair_words(plan)}: {_by_method(plan.recalibrated)}."
    yield from _tuned(plan, metric)
    if plan.predicted_ms is not None:
        yield _latency(plan.predicted_ms, plan.measured_ms)
    if plan.reason:
        yield f"Why: {_sentence(plan.reason)}"
    if plan.try_next:
        steps = "; ".join(step.rstrip(".") for step in plan.try_next)
        yield f"What else to try: {_sentence(steps)}"
    if plan.advice and plan.advice.choice in WORTH_SAYING[verdict.accuracy]:
        yield " ".join(plan.advice.sentences)
    yield from plan.notes


def _tuned(plan: Plan, metric: MetricFormat) -> Iterator[str]:
    """Yield what fine-tuning gave everything in INT8, if it was tried."""
    tuning = plan.tuning
    if tuning is None:
        return
    if not tuning.kept:
        ending = "that is no credible gain, so the plan does not use it"
    elif plan.metric.is_float:
        ending = "the plan leaves everything out all the same"
    else:
        ending = "the plan uses it"
    yield (
        "Fine-tuning by distillation from the float model, without labels, took everything in "
        f"INT8 from {metric.level(tuning.before.value)} to {metric.level(tuning.after.value)} "
        f"on rank; {ending}."
    )


MOST_METHODS = 4
"""Number of combinations of repairs that the verdict names."""


def _by_method(repaired: Sequence[Recalibrated]) -> str:
    """Return the repaired units with what was done to them, and those with the same repairs
    together, as in 'stem, head (mse); body (percentile)'."""
    units: dict[str, list[str]] = {}
    for one in repaired:
        units.setdefault(one.method, []).append(one.unit)
    first = dict(islice(units.items(), MOST_METHODS))
    parts = [f"{listing(tuple(names))} ({method})" for method, names in first.items()]
    others = len(repaired) - sum(map(len, first.values()))
    if others:
        parts.append(f"{others} more")
    return "; ".join(parts)


def _behind_int8(plan: Plan, metric: MetricFormat) -> Iterator[str]:
    """Yield a warning if the plan does worse than everything in INT8 on `holdout`."""
    found = plan.metric
    whole = found.holdout_quantized
    if whole is None or not plan.outside or whole.value <= found.holdout.value:
        return
    there = metric.change(found.holdout.value - whole.value)
    before = metric.change(found.confirm.value - found.quantized.value)
    yield (
        f"Compared with everything in INT8, the plan changes {metric.name} by {there} on holdout, "
        f"after {before} on confirm: judge both on more samples before you leave layers out."
    )


WORTH_SAYING: dict[AccuracyStatus, tuple[str, ...]] = {
    "met": ("partial", "qat"),
    "missed": ("qat",),
    "not proven": (),
}
"""Advice that is shown, by accuracy. Without proof no advice on the worth of the plan is needed,
and the other choices are in the three lines of the verdict."""


def _weights_alone(data: ReportData, plan: Plan) -> Iterator[str]:
    """Yield a sentence on layers that the plan keeps in INT8 and that engines run in float."""
    kept = [unit for unit in data.units if unit.name not in plan.outside]
    alone = weights_alone(kept, data.quantizers)
    if alone:
        yield (
            f"Engines run {count(len(alone), 'layer')} in float with any plan, since the model "
            f"came with quantized weights and no quantized inputs there: {listing(alone)}."
        )


def _why_out(data: ReportData, plan: Plan, metric: MetricFormat) -> Iterator[str]:
    """Yield how everything in INT8, repaired, did in the search, if the plan leaves something
    out."""
    if not plan.skip or not plan.met:
        return
    why = f"Why anything is left out: with everything in INT8{also_repaired(plan)}"
    whole = data.whole_choice
    if whole is None:
        yield from (f"{why} {sentence}" for sentence in _tried_whole(plan, metric))
        return
    drop = whole.point.best_drop
    chance = chance_words(whole.point, plan)
    allowed = plan.metric.float.value - plan.floor
    if chance:
        asked = f"{plan.target.confidence:.0%} is asked for"
        ending = f"; the target was {chance} to hold, and {asked}"
    elif metric.number(allowed) == metric.number(drop.value):
        exact = metric.apart(drop.value, allowed)
        ending = f", {exact} to be exact, which is above what is allowed"
    else:
        ending = f", above the {metric.allowed(plan.target, plan.metric.float.value)} allowed"
    parts = parts_words(whole.point.judged_on)
    yield f"{why} the drop was {metric.change_of(drop)} of {parts}{ending}."


def also_repaired(plan: Plan) -> str:
    """Return the words that follow "everything in INT8" if the search repaired layers, also those
    that the plan leaves out."""
    has_repairs = plan.recalibrated or plan.metric.recalibrated is not None
    return ", repaired," if has_repairs else ""


def _tried_whole(plan: Plan, metric: MetricFormat) -> Iterator[str]:
    """Yield what the search saw of everything in INT8, if it kept only the metric."""
    for step in plan.path:
        if not step.names and not step.met:
            short = metric.change(plan.metric.float.value - step.metric, sign=False)
            yield f"{metric.name} on confirm was {metric.level(step.metric)}, {short} under float."
            return


def _why_these(data: ReportData, plan: Plan, metric: MetricFormat) -> Iterator[str]:
    """Yield why just these layers are left out.

    Either the target did not hold without them, or nothing shows that they are the right ones.
    """
    needed = _needed_units(plan)
    if needed and len(plan.skip) > 1:
        yield _needed_words(data, plan, needed)
        return
    effects = [effect.effect for effect in data.effects if effect.unit in plan.skip]
    if not effects or not all(map(includes_zero, effects)):
        return
    own = ""
    if len(effects) == 1:
        own = f", {metric.change_of(effects[0])},"
    yield (
        "Why these: of the sets tried, this is the cheapest that met the target. The effect of "
        f"these layers alone{own} is no more than chance: the samples do not show whether "
        "others would do as well."
    )


def _needed_words(data: ReportData, plan: Plan, needed: tuple[str, ...]) -> str:
    """Return a sentence on the layers without which the target did not hold.

    needed: these layers.
    """
    sentence = (
        "Why these: the search left layers out until the target was met, then returned those that "
        f"it could to INT8. With {listing(needed, last='or')} in INT8, it was no longer met."
    )
    untried = tuple(unit for unit in plan.skip if unit not in needed)
    if untried:
        sentence += f" This was not tried with {listing(untried, last='or')}."
    if data.mode == "disable":
        sentence += ALONE
    return sentence


def _needed_units(plan: Plan) -> tuple[str, ...]:
    """Return the units left out without which a set that met the target no longer did."""
    met, missed = set[frozenset[str]](), set[frozenset[str]]()
    for step in plan.path:
        tried = met if step.met else missed
        tried.add(frozenset(step.names))

    def is_needed(unit: str) -> bool:
        without = {names - {unit} for names in met}
        return not missed.isdisjoint(without)

    return tuple(filter(is_needed, plan.skip))


ALONE = (
    " The effect of a single layer shows less of this, because it is measured with every other "
    "layer in INT8 as it was calibrated."
)


def chance_words(point: FrontierPoint, plan: Plan) -> str:
    """Return how likely a set meets the target of a plan by `confirm` alone.

    Returns "" if that is unknown.
    """
    if point.true_drop is None:
        return ""
    chance = chance_below(point.true_drop, plan.metric.float.value - plan.floor)
    if chance is None:
        return ""
    return f"{sure(chance)} likely"


def _latency(predicted_ms: float, measured_ms: float | None) -> str:
    """Return a sentence that compares the predicted with the measured latency."""
    predicted = f"Latency of the plan: predicted {milliseconds(predicted_ms)}"
    if measured_ms is None:
        return f"{predicted}, not measured."
    off = predicted_ms / measured_ms - 1
    return f"{predicted}, measured {milliseconds(measured_ms)} ({off:+.0%})."


def _sentence(text: str) -> str:
    """Return the text with a full stop, unless it ends with a sign of its own."""
    if text.endswith((".", "!", "?")):
        return text
    return f"{text}."
