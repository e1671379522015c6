"""Writes the report of a run into its folder: the page, and the figures as SVG files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sensitivity
from sensitivity.files import write_whole
from sensitivity.reporting.charts import RowChart
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.figures import path_figure, rows_figure, svg
from sensitivity.reporting.formats import samples
from sensitivity.reporting.number_formats import in_format
from sensitivity.reporting.page import plan_chart, render, row_charts


def write_report(data: ReportData, out: Path) -> None:
    """Write `figures/*.svg` and `report.html` into the folder `out`, with what `data` holds so far.

    Files of an earlier report are replaced one by one, `report.html` last. Raises WriteError.
    """
    charts = row_charts(data)
    titles = _titles(data, charts)
    figures = {name: rows_figure(chart, titles[name]) for name, chart in charts.items()}
    path = plan_chart(data)
    if path is not None and len(path.points) > 1:
        figures["path"] = path_figure(path, titles["path"])
    for name, figure in figures.items():
        description = (
            f"{data.title}. Made by sensitivity {sensitivity.__version__} with: "
            f"{'; '.join(data.command.splitlines())}"
        )
        write_whole(
            out / "figures" / f"{name}.svg",
            in_format(svg(figure, description), data.format).encode(),
        )
    write_whole(out / "report.html", in_format(render(data), data.format).encode())


def _titles(data: ReportData, charts: Mapping[str, RowChart]) -> dict[str, str]:
    """Return the title of each figure, with what its numbers are based on."""
    interval = f"{100 * data.confidence:g} % intervals"
    titles = {}
    for name, chart in charts.items():
        if name.startswith("effects"):
            titles[name] = f"Sensitivity of the layers, {interval}, {chart.rests} of rank"
    if data.baselines:
        titles["baselines"] = (
            f"Baselines, {interval}, {samples(next(iter(data.baselines.values())))} of rank"
        )
    if data.timings:
        titles["latency"] = f"Median latency and 95th percentile, {data.timings[0].n} runs each"
    if data.plan:
        rests = f"{samples(data.plan.metric.confirm)} of confirm"
        titles["path"] = (
            f"Skip-sets tried (large: the plan; filled: meets the target), {interval}, {rests}"
        )
    return titles
