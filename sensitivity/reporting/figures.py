"""The figures as SVG files, drawn by matplotlib. The same data give the same bytes."""

from __future__ import annotations

from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sensitivity.reporting.axes import spread
from sensitivity.reporting.charts import Row, RowChart
from sensitivity.reporting.path import PathChart

INK, SOFT, GRID = "#1c232b", "#5a6672", "#dde2e8"
TONES = {"plain": "#8496a9", "chosen": "#1f5f99", "muted": "#d3dae1"}
TARGET = "#a8431c"

# Names of layers may contain a "$", which starts mathematics in matplotlib.
_PLAIN: dict[str, Any] = {"parse_math": False}


def rows_figure(chart: RowChart, title: str) -> Figure:
    """Return bars or dots with their intervals, the first row on top."""
    longest = max(len(_name(row)) for row in chart.rows)
    figure, axes = _figure(title, width=8.0 + 0.07 * longest, height=1.3 + 0.27 * len(chart.rows))
    for place, row in enumerate(chart.rows):
        _draw_row(axes, place, row, bar=chart.kind == "bar")
    axes.set_ylim(len(chart.rows) - 0.4, -0.6)
    axes.set_yticks(
        range(len(chart.rows)), [_clean(_name(row)) for row in chart.rows], fontsize=8, **_PLAIN
    )
    axes.set_xlim(chart.axis.low, chart.axis.high)
    axes.set_xticks(
        chart.axis.ticks, [chart.axis.label(tick) for tick in chart.axis.ticks], fontsize=8
    )
    axes.set_xlabel(_clean(chart.unit), color=SOFT, fontsize=9, **_PLAIN)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    if chart.kind == "bar":
        axes.axvline(0, color=SOFT, linewidth=0.8)
    return figure


def _draw_row(axes: Axes, place: int, row: Row, bar: bool) -> None:
    if bar:
        axes.barh(place, row.value, height=0.62, color=TONES[row.tone])
    else:
        axes.plot(row.value, place, "o", color=TONES["chosen"], markersize=6)
    if row.low is not None and row.high is not None:
        axes.errorbar(
            row.value,
            place,
            xerr=[[row.value - row.low], [row.high - row.value]],
            color=INK,
            capsize=2.5,
            linewidth=1,
        )
    if row.mark is not None:
        axes.plot([row.mark, row.mark], [place - 0.31, place + 0.31], color=INK, linewidth=1.4)
    words = f"{row.text} {row.interval}  {'; '.join(row.notes)}".rstrip()
    axes.annotate(
        _clean(words), (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
        textcoords="offset points",
        va="center", fontsize=8, color=SOFT if row.tone == "muted" else INK, annotation_clip=False,
        **_PLAIN,
    )  # fmt: skip


def path_figure(chart: PathChart, title: str) -> Figure:
    """Return accuracy against the number of layers left out, with a vertical axis around the
    data."""
    figure, axes = _figure(title, width=9.0, height=4.2)
    axes.plot(
        [p.slot for p in chart.best],
        [p.value for p in chart.best],
        color=TONES["plain"],
        linewidth=1.2,
        zorder=1,
    )
    for point in chart.points:
        fill = TONES["chosen"] if point.met else "white"
        size = 9 if point.chosen else 6
        axes.plot(
            point.slot,
            point.value,
            "o",
            color=TONES["chosen"],
            markerfacecolor=fill,
            markersize=size,
            zorder=3,
        )
        if point.chosen and chart.chosen_interval:
            axes.vlines(point.slot, *chart.chosen_interval, color=INK, linewidth=1, zorder=2)
    _draw_references(axes, chart)
    axes.set_ylim(chart.axis.low, chart.axis.high)
    axes.set_yticks(
        chart.axis.ticks, [chart.axis.label(tick) for tick in chart.axis.ticks], fontsize=8
    )
    axes.set_xlim(-0.5, len(chart.counts) - 0.5)
    axes.set_xticks(range(len(chart.counts)), [str(number) for number in chart.counts], fontsize=8)
    axes.set_xlabel("layers left out of INT8 (in order, not to scale)", color=SOFT, fontsize=9)
    axes.set_ylabel(_clean(chart.unit), color=SOFT, fontsize=9, **_PLAIN)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    return figure


def _draw_references(axes: Axes, chart: PathChart) -> None:
    places = spread([chart.axis.at(line.value) for line in chart.references], gap=0.06)
    for line, place in zip(chart.references, places, strict=True):
        colour, style = (TARGET, "--") if line.name == "target" else (SOFT, "-")
        axes.axhline(line.value, color=colour, linewidth=1.2, linestyle=style, zorder=1)
        axes.annotate(
            line.text, (1.0, place), xycoords="axes fraction", xytext=(6, 0),
            textcoords="offset points", va="center",
            fontsize=8, color=colour, annotation_clip=False,
        )  # fmt: skip


def svg(figure: Figure, description: str) -> str:
    """Return the figure as the text of an SVG file, in which text stays text.

    Nothing in it depends on the clock or on chance.

    description: who made it, from what.
    """
    out = StringIO()
    with mpl.rc_context(
        {"svg.hashsalt": "sensitivity", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Description": _clean(description)}
        )
    return out.getvalue()


def _figure(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    # pyplot is not used, since it keeps every figure.
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(_clean(title), x=0.01, ha="left", fontsize=10, color=INK, **_PLAIN)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    return figure, axes


def _name(row: Row) -> str:
    if row.place:
        return f"{row.place}  {row.name}"
    return row.name


def _clean(text: str) -> str:
    """Return the text without the control characters that XML does not allow."""
    letters = list(text)
    for place, letter in enumerate(letters):
        if not letter.isprintable():
            letters[place] = "\N{REPLACEMENT CHARACTER}"
    return "".join(letters)
