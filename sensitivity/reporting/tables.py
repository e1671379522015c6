"""Records as pandas DataFrames: full precision, one row for each record, in the records' own
units."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from sensitivity.records import (
    CostModel,
    Effect,
    Estimate,
    FrontierPoint,
    Plan,
    Timing,
    Unit,
    cost_of,
)
from sensitivity.tasks.detection_detail import VARIANTS, DetectionDetail

SEPARATOR = ";"
"""Separator of the names in one cell."""

UNKNOWN = Estimate(math.nan, None, None, 0)
"""Stands for a value that there is not; its cells are empty."""


def scan_table(effects: Iterable[Effect], units: Iterable[Unit]) -> pd.DataFrame:
    """Return one row for each unit, the most sensitive first.

    Columns:
    effect, low, high, metric: in the metric's own unit. low and high are empty without an interval.
        All four are empty, and n is 0, if a race did not measure the unit.
    tie: rank of the first unit that the data cannot distinguish from this one.
    quantizers: exact names, joined with ";".
    kind: why they switch together ("layer", "concat", "head", ...).
    judged: whether the unit reaches an output that the metric reads. If not, its effect is unknown.
    """
    units = tuple(units)
    kinds = {unit.name: unit.kind for unit in units}
    quantizers = {unit.name: SEPARATOR.join(unit.quantizers) for unit in units}
    rows = [
        {
            "rank": effect.rank,
            "unit": effect.unit,
            "effect": effect.effect.value if effect.effect.n else None,
            "low": effect.effect.low,
            "high": effect.effect.high,
            "n": effect.effect.n,
            "tie": effect.tie,
            "metric": effect.metric if effect.effect.n else None,
            "quantizers": quantizers.get(effect.unit, ""),
            "kind": kinds.get(effect.unit, ""),
            "judged": effect.judged,
        }
        for effect in sorted(effects, key=lambda effect: effect.rank)
    ]
    columns = [
        "rank",
        "unit",
        "effect",
        "low",
        "high",
        "n",
        "tie",
        "metric",
        "quantizers",
        "kind",
        "judged",
    ]
    return _floats(pd.DataFrame(rows, columns=columns), ["effect", "low", "high", "metric"])


def frontier_table(
    points: Iterable[FrontierPoint],
    plan: Plan,
    cost: CostModel | None,
    best: Collection[tuple[str, ...]],
) -> pd.DataFrame:
    """Return one row for each skip-set measured on all of `confirm`, the cheapest first.

    best: the sets that no other set beats in both cost and metric.

    Columns:
    drop, low, high: float minus this set on confirm, paired.
    met: whether it meets the plan's target.
    best: whether no other set beats it in both cost and metric.
    cost: by the cost model, in its unit; empty if layers were counted.
    predicted_ms, measured_ms: milliseconds; empty if nothing was timed.
    skip: exact names, joined with ";".
    wide: exact names of units with activations of 16 bits, joined with ";".
    fp8: exact names of units in FP8, joined with ";".
    """
    rows = [
        {
            "layers": len(point.skip),
            "metric": point.confirm.value,
            "drop": point.drop.value,
            "low": point.drop.low,
            "high": point.drop.high,
            "met": point.confirm.value >= plan.floor,
            "chosen": plan.is_of(point.names),
            "best": point.names in best,
            "holdout": point.holdout.value if point.holdout else None,
            "holdout_drop": point.holdout_drop.value if point.holdout_drop else None,
            "cost": cost.of(point.names) if cost else None,
            "predicted_ms": point.predicted_ms,
            "measured_ms": point.measured_ms,
            "skip": SEPARATOR.join(point.skip),
            "wide": SEPARATOR.join(point.wide),
            "fp8": SEPARATOR.join(point.fp8),
        }
        for point in sorted(points, key=lambda point: cost_of(point.names, cost))
    ]
    numbers = [
        "metric",
        "drop",
        "low",
        "high",
        "holdout",
        "holdout_drop",
        "cost",
        "predicted_ms",
        "measured_ms",
    ]
    last = ["skip", "wide", "fp8"]
    columns = ["layers", *numbers[:4], "met", "chosen", "best", *numbers[4:], *last]
    return _floats(pd.DataFrame(rows, columns=columns), numbers)


def bench_table(timings: Iterable[Timing]) -> pd.DataFrame:
    """Return one row for each file and runtime, with times in milliseconds.

    A ratio above 1 is faster than the float file. `same` holds the other variants that are this
    very file, joined with ";".
    """
    rows = [
        {
            "file": timing.file,
            "variant": timing.variant,
            "same": SEPARATOR.join(timing.same),
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
            "ratio_vs_fp16": timing.against_fp16.value if timing.against_fp16 else None,
        }
        for timing in timings
    ]
    text = ["file", "variant", "same", "runtime", "precision", "batch", "threads", "n"]
    numbers = [
        "median_ms",
        "p90_ms",
        "p95_ms",
        "p99_ms",
        "spread_ms",
        "ratio_vs_float",
        "low",
        "high",
    ]
    numbers.append("ratio_vs_fp16")
    return _floats(pd.DataFrame(rows, columns=text + numbers), numbers)


def detection_table(detail: DetectionDetail) -> pd.DataFrame:
    """Return one row for each number of a detector and each variant.

    Columns:
    number: name of a metric, or "AP small", "AP medium" or "AP large".
    objects: labelled boxes of that size; empty for a metric.
    variant: "float", "int8" or "partial".
    value, low, high: in the metric's own unit; empty for a size without objects.
    change, change_low, change_high: minus float's, paired; empty for float.
    n: images.
    """
    rows = list[dict[str, Any]]()
    for name, levels in detail.metrics.items():
        rows += _number_rows(name, None, levels, detail.changes.get(name, {}))
    for size in detail.sizes:
        rows += _number_rows(f"AP {size.name}", size.objects, size.precision, size.change)
    for row in rows:
        row["n"] = detail.n
    numbers = ["value", "low", "high", "change", "change_low", "change_high"]
    table = pd.DataFrame(rows, columns=["number", "objects", "variant", *numbers, "n"])
    return _floats(table.astype({"objects": "Int64"}), numbers)


def _number_rows(
    name: str,
    objects: int | None,
    levels: Mapping[str, Estimate],
    changes: Mapping[str, Estimate],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one number.

    levels, changes: by variant.
    """
    for variant in VARIANTS:
        level, change = levels.get(variant, UNKNOWN), changes.get(variant, UNKNOWN)
        yield {
            "number": name,
            "objects": objects,
            "variant": variant,
            "value": level.value,
            "low": level.low,
            "high": level.high,
            "change": change.value,
            "change_low": change.low,
            "change_high": change.high,
        }


def _floats(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    # A column that holds only None would otherwise be of type object, and None among numbers would
    # stay None.
    return table.astype(dict.fromkeys(columns, "float64"))
