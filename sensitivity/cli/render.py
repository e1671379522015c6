"""What the verbs print: the verdict and a short table, from the same data as the report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from sensitivity import api
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, milliseconds, ratio
from sensitivity.reporting.verdict import verdict

TOP = 10


def show(directory: Path, *, ranking: bool = False, latency: bool = False) -> None:
    """Print the verdict on a run directory, with the most sensitive units and the latencies if asked."""
    data = api.report_data(directory)
    console = Console(highlight=False)
    if ranking:
        console.print(ranking_table(data))
    if latency and data.timings:
        console.print(latency_table(data))
    words = verdict(data)
    console.print(words.headline, style="bold", soft_wrap=True, markup=False)
    for sentence in (*words.sentences, *(f"Note: {warning}" for warning in data.warnings)):
        console.print(sentence, soft_wrap=True, markup=False)
    console.print(f"Files: {directory}", soft_wrap=True, markup=False)


def show_bench(directory: Path) -> None:
    """Print the latencies of a run directory's files and what they mean."""
    data = api.report_data(directory)
    console = Console(highlight=False)
    console.print(latency_table(data))
    for sentence in data.bench_sentences:
        console.print(sentence, soft_wrap=True, markup=False)


def ranking_table(data: ReportData) -> Table:
    metric = MetricFormat(data.metric, data.full_scale)
    verb = "gained without it" if data.mode == "disable" else "lost with it alone"
    table = Table("rank", "unit", f"{metric.name} {verb}", "95 % interval", "tied with")
    for effect in data.effects[:TOP]:
        tie = "" if effect.tie == effect.rank else f"rank {effect.tie}"
        table.add_row(
            str(effect.rank), effect.unit, metric.change(effect.effect.value), metric.interval(effect.effect), tie
        )
    if len(data.effects) > TOP:
        table.caption = f"{len(data.effects) - TOP} more in scan.csv"
    return table


def latency_table(data: ReportData) -> Table:
    table = Table("file", "runtime", "median", "p95", "speed against float")
    for timing in data.timings:
        row = (timing.variant, timing.runtime, milliseconds(timing.median_ms), milliseconds(timing.p95_ms))
        table.add_row(*row, ratio(timing.ratio))
    return table
