"""A report as a tracker of experiments keeps it: numbers, settings, files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from sensitivity.loggers.base import Entry
from sensitivity.records import Estimate, Plan
from sensitivity.reporting.data import ReportData


def entry_of(data: ReportData, files: Sequence[Path], folder: Path) -> Entry:
    """What of a report is logged. files: those that are not there are left out. Accuracies and
    drops are in the metric's own unit; a drop is float minus the plan on `holdout`."""
    named = {} if data.name is None else {"plan": data.name}
    return Entry(
        title=data.title if data.name is None else f"{data.title}, {data.name}",
        settings={**data.settings, **named, "metric": data.metric},
        tags=_tags(data),
        metrics={name: value for name, value in _metrics(data) if math.isfinite(value)},
        files=tuple(file for file in files if file.exists()),
        folder=folder,
    )


def _tags(data: ReportData) -> dict[str, str]:
    tags = {"command": data.command, "directory": data.directory}
    verdict = data.plan.verdict if data.plan else None
    if verdict is not None:
        tags |= {"accuracy": verdict.accuracy, "speed": verdict.speed, "action": verdict.action}
    return tags


def _metrics(data: ReportData) -> Iterator[tuple[str, float]]:
    yield "layers", data.layers
    if data.plan is not None:
        yield from _accuracy(data.plan)
    for timing in data.timings:
        for variant in timing.variants:
            yield f"{variant}_ms", timing.median_ms
            yield f"{variant}_speedup", timing.ratio.value


def _accuracy(plan: Plan) -> Iterator[tuple[str, float]]:
    found = plan.metric
    yield "layers_out", len(plan.skip)
    yield "met", plan.met
    estimates = {
        "float_metric": found.holdout_float,
        "int8_metric": found.holdout_quantized,
        "plan_metric": found.holdout,
        "drop": found.holdout_drop,
        "true_drop": found.true_drop,
    }
    for name, estimate in estimates.items():
        if estimate is not None:
            yield from _with_interval(name, estimate)


def _with_interval(name: str, estimate: Estimate) -> Iterator[tuple[str, float]]:
    yield name, estimate.value
    for end, value in (("low", estimate.low), ("high", estimate.high)):
        if value is not None:
            yield f"{name}_{end}", value
