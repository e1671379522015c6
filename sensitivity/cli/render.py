"""What the verbs print: the verdict and short tables, from the same data as the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sensitivity.records import FrontierPoint, Plan
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat, format_words, milliseconds, ratio
from sensitivity.reporting.kinds import kind_of
from sensitivity.reporting.number_formats import in_format
from sensitivity.reporting.verdict import words_of
from sensitivity.run_dir import RunDir
from sensitivity.search.frontier import Frontier
from sensitivity.steps.plan_files import read_frontier
from sensitivity.steps.report import report_data

TOP = 10
STYLES = {"good": "green", "open": "yellow", "bad": "red"}


def show(
    directory: Path, *, name: str | None = None, ranking: bool = False, latency: bool = False
) -> None:
    """Print the verdict on a plan of a run directory, with the most sensitive units and the
    latencies if asked for.

    name: name of the plan; None for the one in plan.json.
    """
    data = report_data(directory, name)
    console = Console(highlight=False)
    if ranking:
        console.print(no_layer_stands_out(data) or ranking_table(data))
    if latency and data.timings:
        console.print(latency_table(data))
    words = words_of(data)
    for line in words.lines:
        console.print(
            f"{line.title}: {line.status}.",
            style=f"bold {STYLES[line.tone]}",
            end=" ",
            soft_wrap=True,
        )
        console.print(in_format(line.sentence, data.format), soft_wrap=True, markup=False)
    headline = in_format(words.headline, data.format)
    console.print(headline, style=None if words.lines else "bold", soft_wrap=True, markup=False)
    warnings = (f"Note: {warning}" for warning in data.warnings)
    for sentence in (*words.levels, *words.sentences, *warnings):
        console.print(in_format(sentence, data.format), soft_wrap=True, markup=False)
    console.print(f"Files: {RunDir(directory, name).folder}", soft_wrap=True, markup=False)


def show_bench(directory: Path, name: str | None = None) -> None:
    """Print the latencies of a run directory's files and what they mean. `name` is as for
    `show`."""
    data = report_data(directory, name)
    console = Console(highlight=False)
    console.print(latency_table(data))
    for sentence in data.bench_sentences:
        console.print(sentence, soft_wrap=True, markup=False)


def show_frontier(directory: Path, name: str | None = None) -> None:
    """Print accuracy against latency of the sets measured in a run so far. `name` is as for
    `show`."""
    data = report_data(directory, name)
    frontier, best = read_frontier(RunDir(directory, name))
    Console(highlight=False).print(
        frontier_rows(best, frontier, MetricFormat(data.metric, data.full_scale), data.plan)
    )


def frontier_rows(
    best: Sequence[FrontierPoint], frontier: Frontier, metric: MetricFormat, plan: Plan | None
) -> Table:
    """Return the frontier as a table, one row for each set that no other set beats."""
    table = Table(
        "layers out",
        escape(metric.name),
        "95 % interval",
        "drop",
        "holdout drop",
        "predicted",
        "measured",
        "plan",
    )
    for point in best:
        held = metric.change(point.holdout_drop.value, sign=False) if point.holdout_drop else "-"
        times = (
            milliseconds(ms) if ms is not None else "-"
            for ms in (point.predicted_ms, point.measured_ms)
        )
        chosen = "chosen" if plan and plan.is_of(point.names) else ""
        level = (metric.level(point.confirm.value), metric.interval(point.confirm))
        row = (
            f"{len(point.skip)}{format_words(point)}",
            *level,
            metric.change(point.drop.value, sign=False),
            held,
            *times,
            chosen,
        )
        table.add_row(*row)
    beaten = len(frontier.points) - len(best)
    table.caption = (
        f"on confirm; {beaten} more that others beat in frontier.csv" if beaten else "on confirm"
    )
    return table


def no_layer_stands_out(data: ReportData) -> str:
    """Return a sentence in place of a table whose rows all say the same; "" if they do not."""
    number = len(data.effects)
    if number <= TOP or any(effect.tie > 1 for effect in data.effects):
        return ""
    if data.plan is None:  # the sentences on a scan say that all layers are tied
        return f"The ranking of all {number} layers is in scan.csv."
    return (
        f"No layer stands out: the data cannot distinguish any of {number} layers "
        "from the first (scan.csv lists them)."
    )


def ranking_table(data: ReportData) -> Table:
    """Return the most sensitive units, at most `TOP`, with the units that each is tied with."""
    metric = MetricFormat(data.metric, data.full_scale)
    verb = "gained without it" if data.mode == "disable" else "lost with it alone"
    kinds = {unit.name: kind_of(unit) for unit in data.units if kind_of(unit)}
    table = Table(
        "rank",
        "unit",
        escape(f"{metric.name} {verb}"),
        "95 % interval",
        "tied with",
        *(["kind"] if kinds else []),
    )
    for effect in data.effects[:TOP]:
        tie = "" if effect.tie == effect.rank else f"rank {effect.tie}"
        row = (
            str(effect.rank),
            escape(effect.unit),
            metric.effect(effect),
            metric.interval(effect.effect),
            tie,
        )
        table.add_row(*row, *([kinds.get(effect.unit, "")] if kinds else []))
    if len(data.effects) > TOP:
        table.caption = f"{len(data.effects) - TOP} more in scan.csv"
    return table


def latency_table(data: ReportData) -> Table:
    """Return the median and 95th percentile of each file in each runtime, in ms, and its speed
    against float."""
    table = Table("file", "runtime", "median", "p95", "speed against float")
    for timing in data.timings:
        row = (
            " = ".join(timing.variants),
            timing.runtime,
            milliseconds(timing.median_ms),
            milliseconds(timing.p95_ms),
        )
        table.add_row(*row, ratio(timing.ratio))
    return table
