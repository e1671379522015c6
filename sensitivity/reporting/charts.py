"""Charts of rows as plain numbers in the unit shown. The page draws them as inline SVG, matplotlib
as files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import attrgetter
from typing import Literal

from sensitivity.records import Effect, Estimate, Timing
from sensitivity.reporting.axes import Axis, axis_around
from sensitivity.reporting.data import BASELINES, ReportData
from sensitivity.reporting.formats import (
    MetricFormat,
    count,
    includes_zero,
    joined,
    listing,
    milliseconds,
    ratio,
    samples,
)
from sensitivity.reporting.kinds import kind_of

Tone = Literal["plain", "chosen", "muted"]


@dataclass(frozen=True)
class Row:
    """One row of a chart.

    low, high: ends of the interval; None without one.
    text, interval: the value and its interval in words.
    notes: remarks that are shown beside the name.
    mark: a second value, such as a p95; None without one.
    place: rank; "" if the order is not settled, and in a chart that ranks nothing.
    part: part of the model that the row belongs to, shown as a label.
    band: remark that is shared by all rows whose order is not settled; "" for a row that stands
        alone.
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
    place: str = ""
    part: str = ""
    band: str = ""


@dataclass(frozen=True)
class RowChart:
    """A chart of rows.

    kind: "bar" from zero, or "dot" on an axis around the data.
    unit: label of the axis.
    hidden: number of rows that are not drawn.
    rests: what all rows are based on, such as "on 300 samples"; "" if they differ.
    """

    kind: Literal["bar", "dot"]
    axis: Axis
    rows: tuple[Row, ...]
    unit: str
    hidden: int = 0
    rests: str = ""


def effect_charts(data: ReportData, most: int = 30) -> tuple[RowChart, ...]:
    """Return the most sensitive units as bars with intervals.

    There is one chart for each number of samples that the metric was measured on, the most samples
    first. Each has its own scale, since effects on few samples are larger by chance.

    most: largest number of rows in all charts together.
    """
    measured = [effect for effect in data.effects if effect.is_measured]
    bands = bands_of(measured)
    sizes = {effect.effect.n for effect in measured}
    charts = []
    for size in sorted(sizes, reverse=True):
        rows = _rows_of(bands, size, data)
        shown, hidden = rows[:most], len(rows[most:])
        most -= len(shown)
        if shown:
            axis = axis_around(_extremes(shown), zero=True)
            rests = samples(Estimate(0.0, None, None, size))
            charts.append(RowChart("bar", axis, shown, _effect_unit(data), hidden, rests))
    return tuple(charts)


def _rows_of(bands: Iterable[Sequence[Effect]], size: int, data: ReportData) -> tuple[Row, ...]:
    """Return the rows of all units that were measured on `size` samples."""
    rows = list[Row]()
    for band in bands:
        alike = [effect for effect in band if effect.effect.n == size]
        rows += _band_rows(alike, data)
    return tuple(rows)


def bands_of(effects: Sequence[Effect]) -> list[list[Effect]]:
    """Return the units by rank, in bands.

    A new band begins where all units below are told apart from all above.
    """
    order = sorted(effects, key=attrgetter("rank"))
    ties = [effect.tie for effect in order]
    least_below = [*accumulate(reversed(ties), min)][::-1]
    bands = list[list[Effect]]()
    for effect, least in zip(order, least_below, strict=True):
        if not bands or least >= effect.rank:
            bands.append([])
        bands[-1].append(effect)
    return bands


def _band_rows(band: Sequence[Effect], data: ReportData) -> list[Row]:
    """Return the rows of units whose order is not settled, the largest effect first."""
    parts = parts_of(data)
    order = sorted(band, key=lambda effect: -effect.effect.value)
    rows = [_effect_row(effect, data, parts.get(effect.unit, "")) for effect in order]
    if len(rows) < 2:
        return rows
    ranks = [effect.rank for effect in band]
    what = "order" if len(rows) == 2 else "whole order"
    remark = f"Ranks {min(ranks)} to {max(ranks)}: the data does not settle the {what} of "
    return [replace(row, place="", band=f"{remark}these {len(rows)} layers") for row in rows]


def _effect_unit(data: ReportData) -> str:
    """Return what the axis of effects shows, in words and with its unit."""
    change = "gained when only this layer is left out of"
    if data.mode == "enable":
        change = "lost when only this layer is in"
    unit = MetricFormat(data.metric, data.full_scale).change_unit
    return joined(f"{data.metric} {change} INT8", unit)


def parts_of(data: ReportData) -> dict[str, str]:
    """Return unit -> what it is: part of a detection head, a RepVGG block, or layers in one
    group."""
    parts = {}
    for unit in data.units:
        kind = kind_of(unit)
        if kind:
            parts[unit.name] = kind
    return parts


def effect_tone(effect: Effect, skip: Collection[str]) -> Tone:
    """Return how an effect is drawn: muted if it may be zero, otherwise by whether its unit is left
    out.

    skip: units that the plan leaves out.
    """
    if includes_zero(effect.effect):
        return "muted"
    return "chosen" if effect.unit in skip else "plain"


def _effect_row(effect: Effect, data: ReportData, part: str) -> Row:
    metric = MetricFormat(data.metric, data.full_scale)
    notes = []
    if effect.unit in data.skip:
        notes.append("left out")
    if includes_zero(effect.effect):
        notes.append("includes 0")
    low, high = metric.shown_interval(effect.effect)
    return Row(
        effect.unit,
        metric.shown(effect.effect.value),
        low,
        high,
        text=metric.effect(effect),
        interval=metric.interval(effect.effect),
        tone=effect_tone(effect, data.skip),
        notes=tuple(notes),
        place=f"{effect.rank}",
        part=part,
    )


def baseline_chart(data: ReportData) -> RowChart:
    """Return the baselines on `rank` as dots with intervals. `data.baselines` must not be empty."""
    metric = MetricFormat(data.metric, data.full_scale)
    rows = []
    for key, words in BASELINES.items():
        if key not in data.baselines:
            continue
        estimate = data.baselines[key]
        low, high = metric.shown_interval(estimate)
        text, interval = metric.level(estimate.value), metric.interval(estimate)
        rows.append(Row(words, metric.shown(estimate.value), low, high, text, interval))
    axis = axis_around(_extremes(rows), zero=False)
    return RowChart("dot", axis, tuple(rows), metric.level_label)


def latency_chart(timings: Sequence[Timing]) -> RowChart:
    """Return the median latency of each file as a bar from zero, with a mark at the 95th
    percentile.

    timings: must not be empty.
    """
    rows = tuple(map(_latency_row, timings))
    axis = axis_around([row.mark or row.value for row in rows], zero=True)
    return RowChart("bar", axis, rows, "latency, ms")


def _latency_row(timing: Timing) -> Row:
    notes = []
    if timing.same:
        notes.append(f"the same file as {listing(timing.same)}")
    threads = count(timing.threads, "thread")
    notes.append(f"{timing.runtime}, {timing.precision}, batch {timing.batch}, {threads}")
    return Row(
        name=timing.file,
        value=timing.median_ms,
        low=None,
        high=None,
        text=milliseconds(timing.median_ms),
        interval="" if timing.variant == "float" else ratio(timing.ratio),
        tone="chosen" if "partial" in timing.variants else "plain",
        notes=tuple(notes),
        mark=timing.p95_ms,
    )


def _extremes(rows: Iterable[Row]) -> list[float]:
    """Return the values and the ends of the intervals of all rows."""
    values = list[float]()
    for row in rows:
        ends = (row.low, row.high)
        values += [row.value, *(end for end in ends if end is not None)]
    return values
