"""The answer in words, from the evidence and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from sensitivity.records import Action, Effect, Estimate, Plan, Tone, Verdict
from sensitivity.reporting.advice import small_splits
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import (
    MetricFormat,
    count,
    includes_zero,
    listing,
    milliseconds,
    samples,
)
from sensitivity.reporting.outcome import verdict_of

TITLES: dict[Action, str] = {
    "use": "use it",
    "prove": "prove it first",
    "bench": "time it first",
    "float": "stay with float",
    "train": "do not use it as it is",
    "repair": "do not use this file",
}


@dataclass(frozen=True)
class Line:
    """One line of the verdict: a title, what was found in a word or two, and that in a sentence."""

    title: str
    status: str
    sentence: str
    tone: Tone


@dataclass(frozen=True)
class Words:
    """state: of the whole; "scan" where there is no plan. lines: accuracy, speed, what to do; none
    without a plan.

    headline: one sentence. sentences: the rest, the most important first.
    """

    state: Literal["good", "open", "bad", "scan"]
    lines: tuple[Line, ...]
    headline: str
    sentences: tuple[str, ...]


def words_of(data: ReportData) -> Words:
    """What was found, the most important first; every number with its interval, its samples and
    their split."""
    latency = data.bench_sentences[:1]
    found = verdict_in(data)
    if data.plan is None or found is None:
        headline, *rest = scan_sentences(data) or ("Nothing has been measured yet.",)
        return Words("scan", (), headline, (*rest, *latency))
    metric = MetricFormat(data.metric, data.full_scale)
    sentences = (*_plan_sentences(data.plan, metric), *latency)
    headline = _plan_headline(data.plan, data.layers, metric)
    accuracy, *others = lines_of(found)
    chance = _chance_words(found, data.plan.target.confidence)
    accuracy = replace(accuracy, sentence=accuracy.sentence + chance)
    return Words(found.tone, (accuracy, *others), headline, sentences)


def _chance_words(found: Verdict, confidence: float) -> str:
    """How likely the target holds, where that is what is open; "" elsewhere.

    >>> verdict = Verdict("not proven", "", "faster", "", "prove", "", chance=0.784)
    >>> _chance_words(verdict, 0.8)
    ' It is 78% likely that the target holds; 80% is asked for.'
    """
    if found.chance is None or found.accuracy != "not proven":
        return ""
    return f" It is {found.chance:.0%} likely that the target holds; {confidence:.0%} is asked for."


def verdict_in(data: ReportData) -> Verdict | None:
    """The verdict on the plan; None where there is no plan."""
    if data.plan is None:
        return None
    metric = MetricFormat(data.metric, data.full_scale)
    return data.plan.verdict or verdict_of(data.plan, None, metric)


def lines_of(found: Verdict) -> tuple[Line, ...]:
    """The three lines. The words are never greener than what to do."""
    accuracy: Tone = {"met": "good", "not proven": "open", "missed": "bad"}[found.accuracy]  # type: ignore[assignment]
    if accuracy == "good":
        accuracy = found.tone
    speed: Tone = "good" if found.speed == "faster" else "open"
    return (
        Line("Accuracy", found.accuracy, found.accuracy_sentence, accuracy),
        Line("Speed", SPEED_WORDS.get(found.speed, found.speed), found.speed_sentence, speed),
        Line("What to do", TITLES[found.action], found.action_sentence, found.tone),
    )


SPEED_WORDS = {
    "faster": "faster than float",
    "slower": "slower than float",
    "no different": "no faster than float",
    "same file": "same file as float",
}


def scan_sentences(data: ReportData) -> tuple[str, ...]:
    """What the scan alone says: the most sensitive layer, what cannot be told apart, the loss as a
    whole."""
    metric = MetricFormat(data.metric, data.full_scale)
    layers = (_first_layer(data, metric), *_unclear(data.effects)) if data.effects else ()
    shared = (_sharing(data, metric),) if data.sharing is not None else ()
    return (
        (*layers, _whole_loss(data, metric), *shared)
        if {"float", "quantized"} <= data.baselines.keys()
        else layers
    )


def _plan_headline(plan: Plan, layers: int, metric: MetricFormat) -> str:
    before, after = (
        metric.level(plan.metric.quantized.value),
        metric.level(plan.metric.confirm.value),
    )
    target = metric.target(plan.target)
    others = count(len(plan.recalibrated), "other" if plan.skip else "layer")
    if not plan.skip:
        if plan.met and plan.recalibrated:
            return (
                f"With {_repairs(plan)} for {others} everything in INT8 meets the target of "
                f"{target} on confirm, with "
                f"{metric.name} {after} instead of {before}: nothing is left out."
            )
        if plan.met:
            return (
                f"Everything in INT8 meets the target of {target} on confirm, with {metric.name} "
                f"{after}: "
                "nothing is left out."
            )
        return (
            f"The target of {target} is missed on confirm: {metric.name} is {before} in INT8, "
            "and no skip-set tried was better."
        )
    left_out = f"{len(plan.skip)} of {count(max(layers, len(plan.skip)), 'layer')}"
    if plan.met:
        gain = f"brings {metric.name} from {before} to {after}"
        gain = f"and giving {others} {_repairs(plan)} {gain}" if plan.recalibrated else gain
        return (
            f"Leaving {left_out} out of INT8 {gain} on confirm and meets the target of {target} "
            "there."
        )
    short = metric.change(plan.floor - plan.metric.confirm.value, sign=False)
    return (
        f"The target of {target} is missed on confirm by {short}: the best plan found leaves "
        f"{left_out} out of INT8 "
        f"and brings {metric.name} from {before} to {after}."
    )


def _repairs(plan: Plan) -> str:
    """What the units of a plan were given so that they can stay in INT8, in words."""
    found = set()
    for old, new in chain.from_iterable(unit.pairs for unit in plan.recalibrated):
        if (old.amax, old.low) != (new.amax, new.low):
            found.add("new ranges")
        if new.bias is not None:
            found.add("corrected biases")
    return " and ".join(sorted(found, reverse=True))


def _plan_sentences(plan: Plan, metric: MetricFormat) -> Iterator[str]:
    found = plan.metric
    yield (
        f"On confirm, where the plan was chosen: {_level(found.confirm, metric)}; the target asks "
        "for "
        f"{metric.level(plan.floor)}, float has {metric.level(found.float.value)}, "
        f"everything in INT8 {metric.level(found.quantized.value)}."
    )
    int8 = (
        ""
        if found.holdout_quantized is None
        else f", everything in INT8 {_level(found.holdout_quantized, metric)}"
    )
    yield (
        f"On holdout, samples that no choice has seen: {_level(found.holdout, metric)}; float has "
        f"{metric.level(found.holdout_float.value)} there{int8}, so the drop is "
        f"{_change(found.holdout_drop, metric)}."
    )
    few = tuple(small_splits(found, found.float.value - plan.floor, metric))
    yield from few
    if plan.skip:
        yield f"Left out: {listing(plan.skip)}."
    if plan.recalibrated and found.recalibrated is not None:
        named = tuple(f"{one.unit} ({one.method})" for one in plan.recalibrated)
        yield (
            f"In INT8 with {_repairs(plan)}, at no cost in speed: {listing(named)}; with these "
            "everything in INT8 "
            f"reaches {_level(found.recalibrated, metric)} of confirm."
        )
    if found.confirm_drop and len(plan.path) > 1:
        yield (
            f"Corrected for choosing among {count(len(plan.path), 'skip-set')}, the drop on "
            "confirm is "
            f"{_change(found.confirm_drop, metric)}."
        )
    if plan.predicted_ms is not None or plan.measured_ms is not None:
        yield _latency(plan)
    if plan.reason:
        yield f"Why: {_sentence(plan.reason)}"
    if plan.try_next:
        yield (
            f"What else to try: {_sentence('; '.join(step.rstrip('.') for step in plan.try_next))}"
        )
    if plan.advice and plan.advice.choice != "float":  # which the verdict's last line has said
        yield " ".join(plan.advice.sentences)
    yield from (note for note in plan.notes if note not in few)


def _latency(plan: Plan) -> str:
    """Predicted against measured."""
    predicted = None if plan.predicted_ms is None else milliseconds(plan.predicted_ms)
    measured = None if plan.measured_ms is None else milliseconds(plan.measured_ms)
    if predicted and measured and plan.predicted_ms and plan.measured_ms:
        off = plan.predicted_ms / plan.measured_ms - 1
        return f"Latency of the plan: predicted {predicted}, measured {measured} ({off:+.0%})."
    return (
        f"Latency of the plan: predicted {predicted}, not measured."
        if predicted
        else f"Latency of the plan: {measured}."
    )


def _first_layer(data: ReportData, metric: MetricFormat) -> str:
    first = min(data.effects, key=lambda effect: effect.rank)
    change = _change(first.effect, metric)
    if data.mode == "disable":
        what = f"Leaving only {first.unit} out of INT8 gains {change}"
    else:
        what = f"Quantizing only {first.unit} costs {change}"
    if includes_zero(first.effect):
        return f"No layer stands out: {what[0].lower()}{what[1:]}, and that is the largest effect."
    measured = sum(effect.effect.n > 0 for effect in data.effects)
    return f"{what}, the largest effect of {count(measured, 'layer')} measured."


def _unclear(effects: tuple[Effect, ...]) -> Iterator[str]:
    yield from _tied_first([effect for effect in effects if effect.is_measured])
    unseen = sum(not effect.judged for effect in effects)
    if unseen:
        yield (
            f"{count(unseen, 'layer')} reach no output that the metric reads: they are not judged."
        )
    effects = tuple(effect for effect in effects if effect.judged)
    measured = [effect for effect in effects if effect.effect.n]
    silent = sum(includes_zero(effect.effect) for effect in measured)
    if silent:
        yield (
            f"For {silent} of {count(len(measured), 'layer')} the interval includes 0: no effect "
            "is shown."
        )
    if len(measured) < len(effects):
        rest = count(len(effects) - len(measured), "layer")
        yield f"The metric was not spent on {rest}: there the ranking is a signal's alone."


def _tied_first(measured: Sequence[Effect]) -> Iterator[str]:
    tied = [effect for effect in measured if effect.tie == 1]
    if len(tied) < 2:
        return
    if any(effect.effect.low is not None for effect in tied):
        yield f"{len(tied)} layers are tied for rank 1: the data cannot tell them from the first."
        return
    least = count(min(effect.effect.n for effect in tied), "sample")
    yield (
        f"{least} for each layer prove no order of the {len(tied)} measured: all are tied for "
        "rank 1."
    )


def _whole_loss(data: ReportData, metric: MetricFormat) -> str:
    float_ = data.baselines["float"]
    loss = float_.value - data.baselines["quantized"].value
    alone = [
        f"{metric.change(float_.value - data.baselines[f'{part} only'].value, sign=False)} with "
        f"only {part}"
        for part in ("weights", "activations")
        if f"{part} only" in data.baselines
    ]
    more = f" ({', '.join(alone)})" if alone else ""
    before, after = metric.level(float_.value), metric.level(data.baselines["quantized"].value)
    cost = f"Everything in INT8 costs {metric.change(loss, sign=False)} of {metric.name}{more}"
    return f"{cost}: from {before} to {after} {samples(float_)} of rank."


def _sharing(data: ReportData, metric: MetricFormat) -> str:
    assert data.sharing is not None
    names = sum(len(group) for group in data.scales)
    groups = count(len(data.scales), "group")
    return (
        f"{names} quantizers in {groups} share one range each, as engines want it where tensors "
        "meet; with everything in "
        f"INT8 that costs {_change(data.sharing, metric)} of rank."
    )


def _level(estimate: Estimate, metric: MetricFormat) -> str:
    return f"{metric.level(estimate.value)} {metric.interval(estimate)} {samples(estimate)}"


def _change(estimate: Estimate, metric: MetricFormat) -> str:
    return (
        f"{metric.change(estimate.value, sign=False)} {metric.interval(estimate)} "
        f"{samples(estimate)}"
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
