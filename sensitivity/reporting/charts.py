"""Charts of rows as plain numbers in the unit shown; drawn as inline SVG by the page and by
matplotlib for files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sensitivity.records import Effect, Timing
from sensitivity.reporting.axes import Axis, axis_around
from sensitivity.reporting.data import BASELINES, ReportData
from sensitivity.reporting.formats import (
    MetricFormat,
    count,
    includes_zero,
    listing,
    milliseconds,
    ratio,
)
from sensitivity.reporting.kinds import kind_of

Tone = Literal["plain", "chosen", "muted"]


@dataclass(frozen=True)
class Row:
    """One line of a chart of rows. low, high: the interval, None without one. mark: a second value,
    such as a p95.

    text, interval: the value in words. notes: what must be said beside the name. part: of the
    model, shown as a mark.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    text: str
    interval: str
    tone: Tone = "plain"
    notes: tuple[str, ...] = ()
    mark: float | None = None
    rank: int | None = None
    part: str = ""


@dataclass(frozen=True)
class RowChart:
    """kind: "bar" from zero, or "dot" on an axis around the data. unit: label of the axis. hidden:
    rows not drawn."""

    kind: Literal["bar", "dot"]
    axis: Axis
    rows: tuple[Row, ...]
    unit: str
    hidden: int = 0


def effect_chart(data: ReportData, most: int = 30) -> RowChart:
    """The most sensitive units, at most `most` of them, as bars with intervals. `data.effects` must
    not be empty."""
    metric = MetricFormat(data.metric, data.full_scale)
    effects = sorted(data.effects, key=lambda effect: effect.rank)
    skip = frozenset(data.plan.skip if data.plan else ())
    parts = parts_of(data)
    rows = tuple(
        _effect_row(effect, metric, skip, parts.get(effect.unit, "")) for effect in effects[:most]
    )
    change = (
        "gained when only this layer is left out of"
        if data.mode == "disable"
        else "lost when only this layer is in"
    )
    unit = f"{data.metric} {change} INT8{metric.change_unit and ', '}{metric.change_unit}"
    return RowChart(
        "bar", axis_around(_extremes(rows), zero=True), rows, unit, hidden=len(effects) - len(rows)
    )


def parts_of(data: ReportData) -> dict[str, str]:
    """Unit -> what it is: part of a detection head, a RepVGG block, or layers that are switched
    together."""
    return {unit.name: kind_of(unit) for unit in data.units if kind_of(unit)}


def _effect_row(effect: Effect, metric: MetricFormat, skip: frozenset[str], part: str) -> Row:
    silent = includes_zero(effect.effect)
    notes = [
        *(["left out"] if effect.unit in skip else []),
        *([f"tied with rank {effect.tie}"] if effect.tie != effect.rank else []),
        *(["includes 0"] if silent else []),
    ]
    tone: Tone = (
        "muted" if silent or not effect.judged else "chosen" if effect.unit in skip else "plain"
    )
    text = metric.effect(effect)
    low, high = metric.shown_interval(effect.effect)
    value, interval = metric.shown(effect.effect.value), metric.interval(effect.effect)
    return Row(
        effect.unit,
        value,
        low,
        high,
        text,
        interval,
        tone,
        tuple(notes),
        rank=effect.rank,
        part=part,
    )


def baseline_chart(data: ReportData) -> RowChart:
    """The baselines on `rank` as dots with intervals. `data.baselines` must not be empty."""
    metric = MetricFormat(data.metric, data.full_scale)
    rows = []
    for key, words in BASELINES.items():
        if key not in data.baselines:
            continue
        estimate = data.baselines[key]
        low, high = metric.shown_interval(estimate)
        text, interval = metric.level(estimate.value), metric.interval(estimate)
        rows.append(Row(words, metric.shown(estimate.value), low, high, text, interval))
    return RowChart(
        "dot", axis_around(_extremes(rows), zero=False), tuple(rows), metric.level_label
    )


def latency_chart(timings: Sequence[Timing]) -> RowChart:
    """Median latency of each file as bars from zero, a mark at the 95th percentile. `timings` must
    not be empty."""
    rows = tuple(
        Row(
            name=timing.file,
            value=timing.median_ms,
            low=None,
            high=None,
            text=milliseconds(timing.median_ms),
            interval=ratio(timing.ratio) if timing.variant != "float" else "",
            tone="chosen" if "partial" in timing.variants else "plain",
            notes=(
                *([f"the same file as {listing(timing.same)}"] if timing.same else []),
                f"{timing.runtime}, {timing.precision}, batch {timing.batch}, "
                f"{count(timing.threads, 'thread')}",
            ),
            mark=timing.p95_ms,
        )
        for timing in timings
    )
    return RowChart(
        "bar", axis_around([row.mark or row.value for row in rows], zero=True), rows, "latency, ms"
    )


def _extremes(rows: Iterable[Row]) -> list[float]:
    return [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
