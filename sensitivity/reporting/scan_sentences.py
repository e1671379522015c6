"""What a scan found, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

from sensitivity.records import Effect
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, count, includes_zero, samples


def scan_sentences(data: ReportData) -> tuple[str, ...]:
    """Return what the scan alone says.

    This is the most sensitive layer, ties, and the loss as a whole.
    """
    metric = MetricFormat(data.metric, data.full_scale)
    sentences = list[str]()
    if data.effects:
        sentences += [_first_layer(data, metric), *_unclear(data.effects)]
    if {"float", "quantized"} <= data.baselines.keys():
        sentences += [_whole_loss(data, metric), *_sharing(data, metric)]
    return tuple(sentences)


def _first_layer(data: ReportData, metric: MetricFormat) -> str:
    first = min(data.effects, key=attrgetter("rank"))
    change = metric.change_of(first.effect)
    if data.mode == "disable":
        what = f"Leaving only {first.unit} out of INT8 gains {change}"
    else:
        what = f"Quantizing only {first.unit} costs {change}"
    if includes_zero(first.effect):
        return f"No layer stands out: {what[0].lower()}{what[1:]}, and that is the largest effect."
    measured = sum(effect.effect.n > 0 for effect in data.effects)
    return f"{what}, the largest effect of {count(measured, 'layer')} measured."


def _unclear(effects: Sequence[Effect]) -> Iterator[str]:
    """Yield what the effects do not show.

    These are ties, layers that the metric does not depend on, and layers whose effect may be zero
    or was not measured.
    """
    judged = [effect for effect in effects if effect.judged]
    measured = [effect for effect in judged if effect.is_measured]
    yield from _tied_first(measured)
    unseen = len(effects) - len(judged)
    if unseen:
        yield (
            f"{count(unseen, 'layer')} reach no output that the metric reads: they are not judged."
        )
    silent = sum(includes_zero(effect.effect) for effect in measured)
    if silent:
        yield (
            f"For {silent} of {count(len(measured), 'layer')} the interval includes 0: no effect "
            "is shown."
        )
    unspent = len(judged) - len(measured)
    if unspent:
        rest = count(unspent, "layer")
        yield f"The metric was not measured for {rest}: they are ranked by a signal alone."


def _tied_first(measured: Sequence[Effect]) -> Iterator[str]:
    tied = [effect.effect for effect in measured if effect.tie == 1]
    if len(tied) < 2:
        return
    if any(map(attrgetter("has_interval"), tied)):
        yield (
            f"{len(tied)} layers are tied for rank 1: the data cannot distinguish them from the "
            "first."
        )
        return
    least = count(min(map(attrgetter("n"), tied)), "sample")
    yield (
        f"{least} for each layer give no interval: take the order of the {len(tied)} measured as "
        "a hint."
    )


def _whole_loss(data: ReportData, metric: MetricFormat) -> str:
    float_, quantized = data.baselines["float"], data.baselines["quantized"]
    loss = float_.value - quantized.value
    alone = {
        part: float_.value - data.baselines[f"{part} only"].value
        for part in ("weights", "activations")
        if f"{part} only" in data.baselines
    }
    losses = [f"{metric.change(lost, sign=False)} with only {part}" for part, lost in alone.items()]
    adds_up = metric.number(sum(alone.values())) == metric.number(loss)
    ending = "" if adds_up else "; they need not add up"
    more = f" ({', '.join(losses)}{ending})" if losses else ""
    before, after = metric.level(float_.value), metric.level(quantized.value)
    cost = f"INT8 as calibrated costs {metric.change(loss, sign=False)} of {metric.name}{more}"
    is_most = data.mode == "disable" and quantized.value < float_.value / 2
    hidden = HIDDEN if is_most else ""
    return f"{cost}: from {before} to {after} {samples(float_)} of rank.{hidden}"


HIDDEN = (
    " With so much lost, leaving out one layer shows little of what the others do: a layer without "
    "an effect here may need its repair all the same."
)


def _sharing(data: ReportData, metric: MetricFormat) -> Iterator[str]:
    """Yield what the shared ranges cost; nothing if no range had to change."""
    if data.sharing is None:
        return
    names = sum(map(len, data.scales))
    groups = count(len(data.scales), "group")
    yield (
        f"{names} quantizers in {groups} share one range each, as engines require where tensors "
        "meet; with everything in "
        f"INT8 that costs {metric.change_of(data.sharing)} of rank."
    )
