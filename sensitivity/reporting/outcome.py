"""The verdict of a run: accuracy, speed, and what to do, from the plan's evidence and a bench."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sensitivity.records import (
    AccuracyStatus,
    Action,
    BenchResult,
    Estimate,
    Plan,
    PlanMetric,
    RuntimeAccuracy,
    SpeedStatus,
    Target,
    Timing,
    TrueDrop,
    Verdict,
    speed_from_ratio,
    timing_of,
)
from sensitivity.reporting.formats import (
    MetricFormat,
    count,
    listing,
    milliseconds,
    ratio,
    rounded,
    samples,
)
from sensitivity.rules.formats import computed_in_float, in_float_words
from sensitivity.stats.power import spread_of
from sensitivity.stats.proof import (
    chance_below,
    combined,
    corrected_level,
    judged,
    less,
    limit_held,
    more_to_settle,
    samples_to_settle,
    shortfall,
)

ALARM = 3.29 / 1.96
"""Width of a 99.9 % interval relative to a 95 % interval. Chance does not explain a plan that is
above float by more than that."""

RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
}

LOWERED = ("onnxruntime", "openvino")
"""Runtimes for CPUs that files are written for."""

NO_GAIN: tuple[SpeedStatus, ...] = ("slower", "no different", "same file")

PARTIAL = "model.partial."
"""Beginning of the name of the plan's file. The same file has two names if nothing is left out."""

MOST = 0.95
"""Fraction of a file's quantized layers that must run in INT8 for the others not to be
mentioned."""

MOST_SAMPLES = 50_000
"""Largest number of further samples that is advised, since few have as many as ImageNet's
validation set."""


NO_FILES = (
    "Its speed is not known, since no ONNX file of this model can be written: leave the same "
    "layers out in your toolkit's own export, and time that file."
)


@dataclass(frozen=True)
class Evidence:
    """What the accuracy is judged by.

    shown: the drop, or for an absolute target the metric.
    missing: the shortfall from the target.
    splits: the splits that the samples are from, in words.
    spread: standard deviation of what single samples lose; None if it follows from the interval.
    is_exact: whether the drop is known without any sample.
    """

    shown: Estimate
    missing: Estimate
    drop: Estimate
    splits: str
    spread: float | None = None
    is_exact: bool = False


def verdict_of(
    plan: Plan, bench: BenchResult | None, metric: MetricFormat, *, exportable: bool = True
) -> Verdict:
    """Return the verdict on a plan.

    bench: of the plan's own files; None if nothing was timed.
    exportable: whether ONNX files of the model can be written.
    """
    measured = bench.judged if bench else None
    evidence = evidence_of(plan, measured)
    confidence = plan.target.confidence
    accuracy: AccuracyStatus = judged(evidence.missing, confidence) if plan.met else "missed"
    if accuracy == "met" and _is_worthless(plan):
        accuracy = "not proven"
    partial = None if bench is None else timing_of("partial", bench.timings)
    speed = "same file" if plan.metric.is_float else speed_of(partial)
    in_float = formats_in_float(plan, partial)
    action = _action(plan, accuracy, speed, bench, in_float)
    if action == "prove" and _cannot_be_proven(evidence, confidence):
        action = "risk"
    return Verdict(
        accuracy=accuracy,
        accuracy_sentence=" ".join(_accuracy_words(plan, accuracy, evidence, measured, metric)),
        speed=speed,
        speed_sentence=_speed_words(speed, partial, bench, in_float),
        action=action,
        action_sentence=(
            _action_words(plan, action, evidence, partial, metric)
            if exportable or action != "bench"
            else NO_FILES
        ),
        chance=chance_below(evidence.missing, 0.0),
    )


def evidence_of(plan: Plan, measured: RuntimeAccuracy | None = None) -> Evidence:
    """Return the evidence on the accuracy of a plan.

    It is the true drop if the task has one (`stats.soft_drop`). Otherwise it is the drop on
    `holdout`, combined with the drop on `confirm`, which is corrected for choosing the plan there.
    A file that differs from its simulation is judged only by its own drop on `holdout`, since the
    simulation says nothing about it.

    measured: accuracy of the benched file, used for `holdout`; None if it was not measured.
    """
    results, target = plan.metric, plan.target
    differs = measured is not None and measured.differs
    if results.is_float and not differs:
        return _float_evidence(results, target)
    if results.true_drop is not None and not differs:
        return _soft_evidence(results, target, results.true_drop)
    level, drop, where = results.holdout, results.holdout_drop, "holdout"
    if measured is not None:
        level, drop = measured.level, measured.drop
        where = f"holdout in {maker_name(measured.runtime)}"
    levels, drops = [level], [drop]
    missing = [shortfall(target, results.holdout_float, level, drop)]
    if results.confirm_drop is not None and not differs:
        chosen = corrected_level(results.confirm, results.float, results.confirm_drop)
        levels.append(chosen)
        drops.append(results.confirm_drop)
        missing.append(shortfall(target, results.float, chosen, results.confirm_drop))
        corrected = " (corrected for the luck of the choice)" if len(plan.path) > 1 else ""
        where = f"{where} and confirm{corrected}"
    shown = drop = combined(drops)
    if target.metric is not None:
        highest = max(results.confirm.ends[1], level.ends[1])
        shown = _below(highest, combined(levels))
    return Evidence(shown, combined(missing), drop, where)


def _below(highest: float, level: Estimate) -> Estimate:
    """Return the level with its interval cut off where counted levels end, e.g. at 1."""
    low, high = level.ends
    return Estimate.between(level.value, low, min(high, highest), level.n)


def _float_evidence(results: PlanMetric, target: Target) -> Evidence:
    """Return the evidence on a plan that is float itself: it loses nothing, whatever the samples.

    Only an absolute target may be missed.
    """
    level = combined([results.float, results.holdout_float])
    drop = Estimate(0.0, 0.0, 0.0, level.n)
    missing = shortfall(target, level, level, drop)
    shown = level if target.metric is not None else drop
    return Evidence(shown, missing, drop, "confirm and holdout", is_exact=True)


def _soft_evidence(results: PlanMetric, target: Target, drop: TrueDrop) -> Evidence:
    float_ = combined([results.float, results.holdout_float])
    level = replace(less(float_, drop), n=drop.n)  # the samples of the splits that are named
    missing = shortfall(target, float_, level, drop)
    shown = level if target.metric is not None else drop
    spread = spread_of(results.holdout_drop)
    where = f"{parts_words(drop.parts)}, by their labels and float's probabilities"
    return Evidence(shown, missing, drop, where, spread)


def parts_words(parts: Sequence[str]) -> str:
    """Return the names of the splits whose labels a drop counts."""
    return listing(tuple(parts), last="and") if parts else "the labelled data"


def maker_name(runtime: str) -> str:
    """Return the name of a runtime in its makers' spelling."""
    return RUNTIMES.get(runtime, runtime)


def speed_of(partial: Timing | None) -> SpeedStatus:
    """Return the speed of the plan's file against float.

    It is "no different" if the interval holds 1 or there is none.
    """
    if partial is None:
        return "not measured"
    if "float" in partial.variants:
        return "same file"
    return speed_from_ratio(partial.ratio)


def _action(
    plan: Plan,
    accuracy: AccuracyStatus,
    speed: SpeedStatus,
    bench: BenchResult | None,
    in_float: Sequence[str],
) -> Action:
    choice = plan.advice.choice if plan.advice else "partial"
    if _is_broken(bench):
        return "repair"
    if in_float and speed in NO_GAIN:
        return "train" if accuracy == "missed" else "bench"
    if speed in NO_GAIN or choice == "float":
        return "lower" if lacks_lowering(bench) else "float"
    if accuracy == "missed" or choice == "qat":
        return "train"
    if speed == "not measured":
        return "bench"
    return "use" if accuracy == "met" else "prove"


def _is_broken(bench: BenchResult | None) -> bool:
    """Return whether the plan's file computes something else in the runtime than was simulated."""
    if bench is None or bench.judged is None:
        return False
    return bench.judged.differs


def _accuracy_words(
    plan: Plan,
    accuracy: AccuracyStatus,
    evidence: Evidence,
    measured: RuntimeAccuracy | None,
    metric: MetricFormat,
) -> Iterator[str]:
    if measured is not None and measured.differs:
        yield _broken_promise(measured, metric)
    if not plan.met:
        yield _nothing_met(plan, metric)
    yield _drop_words(plan, evidence, metric)
    if _is_worthless(plan):
        yield (
            f"Float itself has {metric.level(0.0)}, so a drop from it says nothing: check the task."
        )
    elif accuracy == "not proven":
        yield _doubt(evidence, plan.target.confidence)
    if _better_than_float(evidence.drop):
        yield (
            "That is above float by more than chance explains: check that what is called float is "
            "your own model, and that holdout was not used to tune the quantized one."
        )


def _nothing_met(plan: Plan, metric: MetricFormat) -> str:
    if plan.metric.true_drop is not None:
        return f"No set tried meets the target with a probability of {plan.target.confidence:.0%}."
    short = metric.change(plan.floor - plan.metric.confirm.value, sign=False)
    return f"No set tried reached the target on confirm: the best one is {short} short of it."


def _is_worthless(plan: Plan) -> bool:
    """Return whether float is never right, so that nothing could be lost."""
    return plan.metric.float.value == plan.metric.holdout_float.value == 0


def _broken_promise(measured: RuntimeAccuracy, metric: MetricFormat) -> str:
    runtime = maker_name(measured.runtime)
    cause = f": {measured.cause}" if measured.cause else ""
    return (
        f"The file does not do in {runtime} what the plan promised: {metric.name} is "
        f"{metric.level(measured.level.value)} there, and {metric.level(measured.simulated.value)} "
        f"as simulated, on the same {measured.level.n:,} samples of holdout{cause}."
    )


def _drop_words(plan: Plan, evidence: Evidence, metric: MetricFormat) -> str:
    shown, target = evidence.shown, plan.target
    where = f"{samples(shown)} of {evidence.splits}"
    if target.metric is not None:
        sentence = (
            f"The plan's {metric.name} is {metric.level(shown.value)} {metric.interval(shown)} "
            f"{where}"
        )
        return f"{sentence}; the target asks for {metric.level(target.metric)}."
    if evidence.is_exact:
        return "Everything is left out, so the plan is float itself and loses nothing."
    float_ = plan.metric.holdout_float.value
    allowed = metric.allowed(target, float_)
    return f"The plan is {metric.from_float(shown)} {where}; a drop of {allowed} is allowed."


def _doubt(evidence: Evidence, confidence: float) -> str:
    more = _more(evidence, confidence)
    if evidence.missing.low is None:
        return "One evaluation gives no interval, so nothing is proven."
    if more is None:
        return "That is so close to the limit that no affordable number of samples would settle it."
    if evidence.missing.value > 0:
        return (
            "These samples speak against the plan: if the drop is what it seems, the target is "
            f"missed, and about {more:,} more would show it."
        )
    return f"About {more:,} more samples would settle it, if the drop is what it seems."


def _cannot_be_proven(evidence: Evidence, confidence: float) -> bool:
    """Return whether more samples would not prove that the target holds.

    They would rather speak against the plan, or more than anybody has would be needed.
    """
    missing = evidence.missing
    if missing.low is None:
        return False
    return missing.value > 0 or _more(evidence, confidence) is None


def _more(evidence: Evidence, confidence: float) -> int | None:
    """Return how many more samples would settle it, rounded; None if that is out of reach."""
    more = _samples_more(evidence, confidence)
    if more is None or more > MOST_SAMPLES:
        return None
    return rounded(more)


def _samples_more(evidence: Evidence, confidence: float) -> int | None:
    """Return how many more samples would settle it; None if no number would."""
    missing = evidence.missing
    if evidence.spread is not None:
        return more_to_settle(missing, evidence.spread, confidence)
    needed = samples_to_settle(missing, confidence)
    return None if needed is None else needed - missing.n


def _better_than_float(drop: Estimate) -> bool:
    _, above = drop.sides
    return drop.value + ALARM * above < 0


def is_lowered_file(partial: Timing) -> bool:
    """Return whether the file was written for the runtime that it was timed in."""
    return f".{partial.runtime}." in Path(partial.file).name


def lacks_lowering(bench: BenchResult | None) -> bool:
    """Return whether a lowered file for the runtime is possible and may be faster than the timed
    one."""
    if bench is None or bench.keeps_form:
        return False
    partial = timing_of("partial", bench.timings)
    if partial is None or "float" in partial.variants:
        return False
    can_be_lowered = partial.runtime in LOWERED
    return can_be_lowered and not is_lowered_file(partial)


def formats_in_float(plan: Plan, timing: Timing | None) -> tuple[str, ...]:
    """Return the formats of a plan, in words, that the runtime of a timing computes in float; empty
    without a timing."""
    if timing is None:
        return ()
    return computed_in_float(timing.runtime, plan.formats.values())


def _speed_words(
    speed: SpeedStatus, partial: Timing | None, bench: BenchResult | None, in_float: Sequence[str]
) -> str:
    if speed == "same file":
        return "The plan leaves everything out of INT8, so its file is float."
    if partial is None or bench is None:
        return "No file of this plan was timed."
    float_ = timing_of("float", bench.timings)
    assert float_ is not None, "every ratio is against it"
    if lacks_lowering(bench) and speed != "faster" and not in_float:
        return (
            f"{ratio(partial.ratio)} the speed of float, as far as is known: the file that was "
            f"timed is not written for {maker_name(partial.runtime)}."
        )
    times = f"{milliseconds(partial.median_ms)} against {milliseconds(float_.median_ms)}"
    sentence = (
        f"{ratio(partial.ratio)} the speed of float in {maker_name(partial.runtime)} on this "
        f"machine ({times})."
    )
    sentence += _beside_int8(bench, partial)
    if in_float:
        return f"{sentence} {in_float_words(maker_name(partial.runtime), in_float)}"
    return sentence + _few_in_int8(bench, partial)


def _beside_int8(bench: BenchResult, partial: Timing) -> str:
    """Return the speed of everything in INT8 as a sentence; "" if it was not timed."""
    if "int8" in partial.variants:
        return " Nothing is left out, so that is the speed of everything in INT8."
    int8 = timing_of("int8", bench.timings)
    if int8 is None:
        return ""
    return f" With everything in INT8 it is {ratio(int8.ratio)}."


def _few_in_int8(bench: BenchResult, partial: Timing) -> str:
    """Return a sentence if the runtime ran many layers in float that the file quantizes.

    Returns "" if it did not, or if its profile is not known.
    """
    ran, kept = bench.in_int8 or (0, 0)
    if ran >= MOST * kept:
        return ""
    # A file that was written for the runtime no longer quantizes what would run in float there.
    file = partial.file.replace(f".{partial.runtime}.", ".").replace("model.int8.", PARTIAL)
    some = f"{ran} in INT8 and the others in float" if ran else "all in float"
    return (
        f" Of {count(kept, 'quantized layer')} with weights the runtime ran {some}: "
        f"sensitivity lint {file} --for {partial.runtime} says why."
    )


def _action_words(
    plan: Plan, action: Action, evidence: Evidence, partial: Timing | None, metric: MetricFormat
) -> str:
    file = Path(partial.file).name if partial else "model.partial.onnx"
    file = file.replace("model.int8.", PARTIAL)
    runtime = maker_name(partial.runtime) if partial else "this runtime"
    where = f"in {runtime} on this machine" if partial else "in this runtime"
    match action:
        case "use":
            return f"It is {file}."
        case "bench" if in_float := formats_in_float(plan, partial):
            return f"Its speed is not known: time {file} on hardware with {' and '.join(in_float)}."
        case "bench":
            return (
                "Its speed is not known: sensitivity export makes the file and sensitivity "
                "bench times it."
            )
        case "lower":
            return (
                f"sensitivity export writes the file for {runtime}, and sensitivity bench times "
                "it; until then stay with float."
            )
        case "float":
            slower = f"The plan is no faster than float {where}"
            return f"{slower}; another runtime may be faster: time it there with sensitivity bench."
        case "repair":
            return (
                f"{file} has a different accuracy {where}; sensitivity lint says what that runtime "
                "does with it."
            )
        case "train":
            return _train_words(plan)
        case "prove" | "risk":
            return _prove_words(file, evidence, plan, metric)


def _train_words(plan: Plan) -> str:
    is_advised = plan.advice is not None and plan.advice.choice == "qat"
    if plan.met and is_advised:
        return "The plan loses most of the speed of INT8: use quantization-aware training."
    if not plan.try_next:
        return "Loosen the target, calibrate again, or use quantization-aware training."
    steps = "; ".join(step.rstrip(".") for step in plan.try_next)
    return f"Try {steps}."


def _prove_words(file: str, evidence: Evidence, plan: Plan, metric: MetricFormat) -> str:
    low, high = evidence.shown.ends
    if not evidence.shown.has_interval:
        return f"Before you rely on {file}, evaluate it by sample, which gives an interval."
    confidence = plan.target.confidence
    limit = limit_held(evidence.shown, confidence)
    if plan.target.metric is not None or limit is None:
        risk = f"{metric.name} may be as low as {metric.level(low)}"
    else:
        risk = (
            f"the drop is at most {metric.change(limit, sign=False)} with a probability of "
            f"{confidence:.0%}, and may be up to {metric.change(high, sign=False)} (95 % interval)"
        )
    sentence = f"Use {file} only if you can take the risk: {risk}."
    if _cannot_be_proven(evidence, confidence):
        return sentence
    return f"{sentence} To be sure, judge it on about {_more(evidence, confidence):,} more samples."
