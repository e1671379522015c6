"""A report in the form that an experiment tracker keeps: numbers, settings, files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sensitivity.loggers.base import Entry
from sensitivity.records import Plan
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import joined


def entry_of(data: ReportData, files: Sequence[Path], folder: Path) -> Entry:
    """Return what is logged of a report.

    Accuracies and drops are in the metric's own unit; a drop is float minus the plan on `holdout`.

    files: files to log; missing ones are left out.
    folder: folder of the run, or of a named plan in it.
    """
    named = {} if data.name is None else {"plan": data.name}
    metrics = dict[str, float]()
    for name, value in _metrics(data).items():
        if value is not None and math.isfinite(value):
            metrics[name] = value
    return Entry(
        title=joined(data.title, data.name or ""),
        settings={**data.settings, **named, "metric": data.metric},
        tags=_tags(data),
        metrics=metrics,
        files=tuple(filter(Path.exists, files)),
        folder=folder,
    )


def _tags(data: ReportData) -> dict[str, str]:
    tags = {"command": data.command, "directory": data.directory}
    verdict = data.plan.verdict if data.plan else None
    if verdict is not None:
        tags |= {"accuracy": verdict.accuracy, "speed": verdict.speed, "action": verdict.action}
    return tags


def _metrics(data: ReportData) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {"layers": data.layers}
    if data.plan is not None:
        metrics |= _accuracy(data.plan)
    for timing in data.timings:
        for variant in timing.variants:
            metrics |= {f"{variant}_ms": timing.median_ms, f"{variant}_speedup": timing.ratio.value}
    return metrics


def _accuracy(plan: Plan) -> dict[str, float | None]:
    measured = plan.metric
    estimates = {
        "float_metric": measured.holdout_float,
        "int8_metric": measured.holdout_quantized,
        "plan_metric": measured.holdout,
        "drop": measured.holdout_drop,
        "true_drop": measured.true_drop,
    }
    metrics: dict[str, float | None] = {
        "layers_out": len(plan.skip),
        "layers_in_16_bits": len(plan.wide),
        "layers_in_fp8": len(plan.fp8),
        "met": plan.met,
    }
    for name, estimate in estimates.items():
        if estimate is not None:
            metrics |= {
                name: estimate.value,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
            }
    return metrics
