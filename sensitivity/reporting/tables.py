"""Records as pandas DataFrames: full precision, one row for each record, in the records' own units."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from sensitivity.records import Effect, Plan, Timing, Unit

SEPARATOR = ";"
"""Between the names in one cell."""


def scan_table(effects: Iterable[Effect], units: Iterable[Unit]) -> pd.DataFrame:
    """One row for each unit, most sensitive first.

    effect, low, high, metric: in the metric's own unit; low and high are empty where there is no interval.
    tie: the rank of the first unit that cannot be told from this one. quantizers: exact names, joined with ";".
    """
    quantizers = {unit.name: SEPARATOR.join(unit.quantizers) for unit in units}
    rows = [
        {
            "rank": effect.rank,
            "unit": effect.unit,
            "effect": effect.effect.value,
            "low": effect.effect.low,
            "high": effect.effect.high,
            "n": effect.effect.n,
            "tie": effect.tie,
            "metric": effect.metric,
            "quantizers": quantizers.get(effect.unit, ""),
        }
        for effect in sorted(effects, key=lambda effect: effect.rank)
    ]
    columns = ["rank", "unit", "effect", "low", "high", "n", "tie", "metric", "quantizers"]
    return _floats(pd.DataFrame(rows, columns=columns), ["effect", "low", "high", "metric"])


def path_table(plan: Plan) -> pd.DataFrame:
    """One row for each skip-set tried on `confirm`, in the order tried.

    layers: how many are left out. gap: metric minus the floor that meets the target. n: samples of `confirm`.
    skip: exact names, joined with ";".
    """
    rows = [
        {
            "try": number,
            "layers": len(step.skip),
            "metric": step.metric,
            "gap": step.metric - plan.floor,
            "met": step.met,
            "n": plan.metric.confirm.n,
            "skip": SEPARATOR.join(step.skip),
        }
        for number, step in enumerate(plan.path, start=1)
    ]
    columns = ["try", "layers", "metric", "gap", "met", "n", "skip"]
    return _floats(pd.DataFrame(rows, columns=columns), ["metric", "gap"])


def bench_table(timings: Iterable[Timing]) -> pd.DataFrame:
    """One row for each file and runtime; times in milliseconds; ratio above 1 is faster than the float file."""
    rows = [
        {
            "file": timing.file,
            "variant": timing.variant,
            "runtime": timing.runtime,
            "precision": timing.precision,
            "batch": timing.batch,
            "threads": timing.threads,
            "n": timing.n,
            "median_ms": timing.median_ms,
            "p90_ms": timing.p90_ms,
            "p95_ms": timing.p95_ms,
            "p99_ms": timing.p99_ms,
            "spread_ms": timing.spread_ms,
            "ratio_vs_float": timing.ratio.value,
            "low": timing.ratio.low,
            "high": timing.ratio.high,
        }
        for timing in timings
    ]
    text = ["file", "variant", "runtime", "precision", "batch", "threads", "n"]
    numbers = ["median_ms", "p90_ms", "p95_ms", "p99_ms", "spread_ms", "ratio_vs_float", "low", "high"]
    return _floats(pd.DataFrame(rows, columns=text + numbers), numbers)


def _floats(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    # A column that holds only None would otherwise be of type object, and a None among numbers stay a None.
    return table.astype(dict.fromkeys(columns, "float64"))
