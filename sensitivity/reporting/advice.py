"""Says what to do in the end, from the plan's evidence and from measured latencies, if any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sensitivity.records import Advice, Plan, Timing
from sensitivity.reporting.formats import MetricFormat, count, listing, milliseconds, ratio
from sensitivity.rules.formats import computed_in_float

WORTH = 0.5
"""Fraction of the time saved by INT8 that a partial plan must keep to be worth it."""

REDUCED = ("fp16", "bf16")
"""Precisions in which an FP16 file really ran in 16 bits. A CPU runs it in FP32, which says nothing
about FP16."""

NO_SPEED = (
    "what it costs in speed is not known, since no ONNX file of this model can be written: time "
    "your toolkit's own export with the same layers left out"
)


def advice(
    plan: Plan,
    timings: Sequence[Timing],
    layers: int,
    metric: MetricFormat,
    *,
    exportable: bool = True,
) -> Advice:
    """Return the advice on a plan.

    timings: of one bench that includes the plan's own file; empty if nothing was timed.
    layers: number of layers in the model.
    exportable: whether an ONNX file of the model can be written.
    """
    times = dict[str, Timing]()
    for timing in timings:
        times |= dict.fromkeys(timing.variants, timing)
    for variant in _in_float(plan, times):
        del times[variant]
    int8 = times.get("int8")
    if int8 is not None and int8.ratio.value <= 1:
        return Advice("float", tuple(_stay_with_float(plan, int8, layers)))
    if not plan.met:
        return Advice("qat", (_missed(plan, metric), *_possible_gain(plan, times, metric)))
    if len(plan.skip) >= layers > 0:
        return Advice("float", tuple(_all_out(plan)))
    if not plan.outside:
        return Advice("ptq", tuple(_enough(plan, int8, metric)))
    if not exportable:
        left_out = outside_words(plan, layers)
        sentence = f"Partial PTQ meets the target on confirm with {left_out}; {NO_SPEED}."
        return Advice("partial", (sentence, _must_gain(plan, metric)))
    return _partial(plan, times, layers, metric)


def _in_float(plan: Plan, times: dict[str, Timing]) -> list[str]:
    """Return the variants whose times say nothing, since the runtime computes their formats in
    float."""
    own = [name for unit, name in plan.formats.items() if unit not in plan.outside]
    formats = {"int8": own, "partial": [*plan.formats.values()]}
    return [
        variant
        for variant, timing in times.items()
        if computed_in_float(timing.runtime, formats.get(variant, ()))
    ]


def _partial(plan: Plan, times: dict[str, Timing], layers: int, metric: MetricFormat) -> Advice:
    left_out = outside_words(plan, layers)
    partial, int8, float_, fp16 = (times.get(name) for name in ("partial", "int8", "float", "fp16"))
    if partial is None or int8 is None or float_ is None:
        price = "what it costs in speed was not measured: run sensitivity bench"
        if float_ is not None:
            price = f"{float_.runtime} does not show what it costs in speed"
        return Advice(
            "partial",
            (
                f"Partial PTQ meets the target on confirm with {left_out}; {price}.",
                _must_gain(plan, metric),
            ),
        )
    saved = float_.median_ms - int8.median_ms
    kept = (float_.median_ms - partial.median_ms) / saved
    price = (
        f"{milliseconds(partial.median_ms)} against {milliseconds(int8.median_ms)} with "
        "everything in INT8"
    )
    if fp16 is not None and fp16.precision in REDUCED and partial.median_ms >= fp16.median_ms:
        first = (
            f"Partial PTQ loses the speed of INT8: with {left_out} it takes {price}, and FP16 "
            f"takes {milliseconds(fp16.median_ms)}. Use quantization-aware training, or FP16 as it "
            "is."
        )
        return Advice("qat", (first, *_possible_gain(plan, times, metric)))
    if kept < WORTH:
        first = (
            f"Partial PTQ loses the speed of INT8: with {left_out} it takes {price}, which keeps "
            f"{max(kept, 0):.0%} of the time that INT8 saves against float "
            f"({milliseconds(float_.median_ms)}). Use quantization-aware training."
        )
        return Advice("qat", (first, *_possible_gain(plan, times, metric)))
    first = (
        f"Partial PTQ meets the target on confirm with {left_out}, at {price}: "
        f"{ratio(partial.ratio)} the speed of float, and {kept:.0%} of the time that INT8 saves."
    )
    return Advice("partial", (first, _must_gain(plan, metric)))


def outside_words(plan: Plan, layers: int) -> str:
    """Return what a plan leaves out, and what has 16 bits or is in FP8, with names.

    layers: number of layers in the model.
    """
    every = count(max(layers, len(plan.outside)), "layer")
    words = []
    if plan.skip:
        words.append(f"{len(plan.skip)} of {every} left out ({listing(plan.skip)})")
    if plan.wide:
        number = f"{len(plan.wide)} of {every}"
        words.append(f"{number} with activations of 16 bits ({listing(plan.wide)})")
    if plan.fp8:
        words.append(f"{len(plan.fp8)} of {every} in FP8 ({listing(plan.fp8)})")
    return " and ".join(words)


def _stay_with_float(plan: Plan, int8: Timing, layers: int) -> Iterator[str]:
    yield (
        f"Stay with float in {int8.runtime} on this machine: everything in INT8 runs at "
        f"{ratio(int8.ratio)} the speed of float there, so neither a plan nor quantization-aware "
        "training has any speed to gain."
    )
    state = "holds" if plan.met else "misses"
    left_out = outside_words(plan, layers) or "nothing left out"
    yield (
        f"For another runtime the plan {state} the target with {left_out}; time it there with "
        "sensitivity bench."
    )


def _all_out(plan: Plan) -> Iterator[str]:
    if plan.planner in ("cost", "exhaustive"):
        yield (
            "In this runtime the model is cheapest with nothing in INT8: stay with float there. "
            "Another runtime may differ."
        )
    else:  # those that count layers
        yield (
            "Only float meets the target: everything is left out of INT8. Use quantization-aware "
            "training, or float."
        )


def _enough(plan: Plan, int8: Timing | None, metric: MetricFormat) -> Iterator[str]:
    speed = f" It runs at {ratio(int8.ratio)} the speed of float in {int8.runtime}." if int8 else ""
    yield f"{_enough_words(plan, metric)}.{speed}"


def _enough_words(plan: Plan, metric: MetricFormat) -> str:
    """Return why everything in INT8 is enough, by what has decided: the true drop if there is one.

    The counted metric may be below the target although the true drop is within it.
    """
    drop = plan.metric.true_drop
    if drop is None:
        level = metric.level(plan.metric.confirm.value)
        asked = metric.level(plan.floor)
        return (
            f"PTQ is enough on confirm: with everything in INT8, {metric.name} is {level}, where "
            f"the target asks for {asked}"
        )
    allowed = metric.allowed(plan.target, plan.metric.float.value)
    is_off = metric.from_float(drop)
    return f"PTQ is enough: everything in INT8 is {is_off}, where a drop of {allowed} is allowed"


def _missed(plan: Plan, metric: MetricFormat) -> str:
    short = metric.change(plan.floor - plan.metric.confirm.value, sign=False)
    return (
        f"No plan meets the target: the best one found is {short} short of it. Use "
        "quantization-aware training."
    )


def _must_gain(plan: Plan, metric: MetricFormat) -> str:
    """Return how much training would have to gain with everything in INT8 before it beats the
    plan."""
    gap = plan.floor - _everything_in_int8(plan)
    if gap <= 0 and plan.metric.true_drop is not None:
        return (
            "Everything in INT8 may meet the target too, but with a probability below "
            f"{plan.target.confidence:.0%}: training has almost nothing to gain."
        )
    if gap <= 0:
        return "Everything in INT8 meets the target too, so training has no accuracy to gain."
    if metric.number(gap) == metric.number(0.0):
        return "Everything in INT8 almost meets the target, so training has almost nothing to gain."
    return (
        f"Quantization-aware training would have to gain {metric.change(gap, sign=False)} with "
        "everything in INT8 to do without the plan."
    )


def _everything_in_int8(plan: Plan) -> float:
    """Return the metric with everything in INT8, with the repairs of the plan, by what has decided:
    float's minus the true drop if there is one, as the search saw it."""
    if plan.metric.true_drop is not None:
        for step in plan.path:
            if not step.names:
                return step.metric
    counted = plan.metric.recalibrated or plan.metric.quantized
    return counted.value


def _possible_gain(plan: Plan, times: dict[str, Timing], metric: MetricFormat) -> Iterator[str]:
    yield _must_gain(plan, metric)
    partial, int8 = times.get("partial"), times.get("int8")
    if partial and int8 and partial.median_ms > int8.median_ms:
        gain = partial.median_ms / int8.median_ms
        yield (
            f"That would run {gain:.2f} times as fast as the plan, at "
            f"{milliseconds(int8.median_ms)}."
        )
