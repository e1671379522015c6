"""Writing the report of a run into its folder."""

from __future__ import annotations

from pathlib import Path

import sensitivity
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.figures import path_figure, rows_figure, svg
from sensitivity.reporting.files import write_text
from sensitivity.reporting.html import plan_chart, render, row_charts

TITLES = {"effects": "Sensitivity of the layers", "baselines": "Where the loss comes from", "latency": "Latency"}


def write_report(data: ReportData, out: Path) -> None:
    """Write `figures/*.svg` and `report.html` into the folder `out`, with what `data` holds so far.

    Files of an earlier report are replaced one by one, `report.html` last. Raises WriteError.
    """
    figures = {name: rows_figure(chart, TITLES[name]) for name, chart in row_charts(data).items()}
    path = plan_chart(data)
    if path is not None:
        figures["path"] = path_figure(path, "Accuracy path of the plan")
    for name, figure in figures.items():
        made = f"{data.title}. Made by sensitivity {sensitivity.__version__} with: {data.command}"
        write_text(out / "figures" / f"{name}.svg", svg(figure, made))
    write_text(out / "report.html", render(data))
