"""Timings as flat rows, for CSV and tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sensitivity.records import Timing


def timings_to_rows(timings: Iterable[Timing]) -> list[dict[str, object]]:
    """One row per file; ratio_vs_float above 1 is faster than float, with its interval low, high."""
    return [
        {
            "variant": row.variant,
            "file": Path(row.file).name,
            "runtime": row.runtime,
            "precision": row.precision,
            "batch": row.batch,
            "threads": row.threads,
            "n": row.n,
            "median_ms": row.median_ms,
            "p90_ms": row.p90_ms,
            "p95_ms": row.p95_ms,
            "p99_ms": row.p99_ms,
            "spread_ms": row.spread_ms,
            "ratio_vs_float": row.ratio.value,
            "low": row.ratio.low,
            "high": row.ratio.high,
        }
        for row in timings
    ]
