"""Compares the plans of run directories, or of report folders without a run."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from sensitivity.config import CompareSettings
from sensitivity.errors import RunDirError
from sensitivity.records import BenchResult, Effect, Estimate, Mode, Plan, Timing, Verdict
from sensitivity.reporting.compare import ComparedRun
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.outcome import verdict_of
from sensitivity.reporting.tables import SEPARATOR
from sensitivity.run_dir import RunDir
from sensitivity.steps import lazy
from sensitivity.steps.report import report_data

Row = dict[Hashable, Any]
"""A row of a table, column name -> value."""


def compare_plans(places: tuple[RunDir, ...], out: Path | None) -> tuple[ComparedRun, ...]:
    """Compare these plans, as `compare` does."""
    runs = tuple(map(_compared, places, labels_of(places)))
    if out is not None:
        lazy.compare_page.write_comparison(runs, out)
    return runs


def _compared(run_dir: RunDir, label: str) -> ComparedRun:
    """Return a plan for a comparison, read from a run directory or from a report folder."""
    is_folder = run_dir.file("plan.json").exists() and not run_dir.file("run.json").exists()
    info = None if is_folder else run_dir.info()
    data = folder_data(run_dir) if is_folder else report_data(run_dir.path, run_dir.name)
    own = run_dir.plan()  # raises with how to make one if there is none
    return ComparedRun(
        name=label,
        directory=str(run_dir.folder),
        source=info.source if info else "",
        task=info.task if info else "",
        data=data,
        plan=data.plan or own,
        verdict=_verdict_on(own, data),
    )


def _verdict_on(plan: Plan, data: ReportData) -> Verdict:
    """Return the plan's own verdict if it includes the latency, else a new one. A plan in a folder
    may be older than its bench."""
    if plan.verdict and plan.verdict.speed != "not measured":
        return plan.verdict
    bench = BenchResult(data.timings, (), {}, {}, plan.skip) if data.timings else None
    return verdict_of(plan, bench, MetricFormat(data.metric, data.full_scale))


def places_of(settings: CompareSettings) -> tuple[RunDir, ...]:
    """Return the plans that are compared.

    Raises RunDirError for fewer than two plans, and for a directory given twice.
    """
    directories = settings.directories
    names: Sequence[str | None] = settings.name or (None,)
    places = tuple(RunDir(directory, name) for directory in directories for name in names)
    if len(directories) == 1 and not settings.name:
        places = every_plan_of(places[0])
    check_several(places)
    return places


def every_plan_of(run_dir: RunDir) -> tuple[RunDir, ...]:
    """Return all plans of a run, the one in plan.json first. Raises RunDirError if there is
    none."""
    made = tuple(place for place in run_dir.plans() if place.file("plan.json").exists())
    if not made:
        run_dir.plan()  # raises with how to make one
    return made


def check_several(places: Sequence[RunDir]) -> None:
    """Raise RunDirError for fewer than two plans, and for one given twice."""
    files = [place.file("plan.json") for place in places]
    if len(files) < 2:
        got = f"only {files[0]}" if files else "none"
        raise RunDirError(
            f"Expected at least two plans to compare, got {got}; name another run directory, as "
            "in: sensitivity compare runs/a runs/b, or make another plan of one run, as in: "
            "sensitivity plan runs/a --max-drop 2pt --name b"
        )
    seen = set()
    for file in files:
        if file.resolve() in seen:
            raise RunDirError(f"Expected each plan once, got {file} twice; name another one.")
        seen.add(file.resolve())


def labels_of(places: Sequence[RunDir]) -> tuple[str, ...]:
    """Return what each plan is called in the comparison.

    That is its own name within one run, the folder of its run if there are several, or the path of
    the run if folders have the same name.
    """
    if len({place.path for place in places}) == 1:
        return tuple(place.name or "plan.json" for place in places)
    short = tuple(_label(place.path.resolve().name, place.name) for place in places)
    if len(set(short)) == len(short):
        return short
    return tuple(_label(str(place.path), place.name) for place in places)


def _label(folder: str, name: str | None) -> str:
    return folder if name is None else f"{folder}/{name}"


def folder_data(run_dir: RunDir) -> ReportData:
    """Read plan.json, scan.csv and bench*.csv of a report folder. The CSV files may be missing.

    Raises RunDirError.
    """
    plan, directory = run_dir.plan(), run_dir.path
    scan = directory / "scan.csv"
    rows = _rows(scan) if scan.exists() else []
    try:
        effects = tuple(_effect(row) for row in rows)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(scan, error) from error
    return ReportData(
        title=directory.resolve().name,
        metric=plan.metric.name,
        full_scale=_full_scale(plan),
        mode=_mode(effects),
        command="",
        effects=effects,
        plan=plan,
        timings=tuple(chain.from_iterable(map(_timings, sorted(directory.glob("bench*.csv"))))),
    )


def _full_scale(plan: Plan) -> float:
    """Return the full scale of the metric: 1 for a fraction, 100 for percent. Other metrics need
    none."""
    metric = plan.metric
    highest = max(metric.float.value, metric.quantized.value, metric.holdout_float.value)
    return 100.0 if highest > 1 else 1.0


def _mode(effects: tuple[Effect, ...]) -> Mode:
    """Infer the mode of the scan from its table.

    In mode `disable`, a unit's metric minus its effect is the metric of everything in INT8, the
    same for all layers. In mode `enable`, metric plus effect is the metric of float.
    """
    measured = [(effect.metric, effect.effect.value) for effect in effects if effect.effect.n]
    table = pd.DataFrame(measured, columns=["metric", "effect"], dtype=float)
    gains, losses = table["metric"] - table["effect"], table["metric"] + table["effect"]
    return "enable" if losses.std() < gains.std() else "disable"


def _rows(file: Path) -> list[Row]:
    """Return the table as records, with None for empty cells. Raises RunDirError."""
    try:
        table = pd.read_csv(file, dtype={"same": str, "unit": str})
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    known = table.astype(object).where(table.notna(), None)
    return known.to_dict("records")


def _timings(file: Path) -> list[Timing]:
    try:
        return [_timing(row) for row in _rows(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(file, error) from error


def _effect(row: Row) -> Effect:
    return Effect(
        rank=int(_number(row["rank"])),
        tie=int(_number(row["tie"])),
        unit=str(row["unit"]),
        effect=_estimate(row, _number(row["effect"], 0.0)),
        metric=_number(row["metric"], 0.0),
        judged=bool(row.get("judged", True)),
    )


def _timing(row: Row) -> Timing:
    same = str(row.get("same") or "")
    return Timing(
        file=str(row["file"]),
        variant=row["variant"],
        runtime=str(row["runtime"]),
        precision=str(row["precision"]),
        batch=int(_number(row["batch"])),
        threads=int(_number(row["threads"])),
        n=int(_number(row["n"])),
        median_ms=_number(row["median_ms"]),
        p90_ms=_number(row["p90_ms"]),
        p95_ms=_number(row["p95_ms"]),
        p99_ms=_number(row["p99_ms"]),
        spread_ms=_number(row["spread_ms"]),
        ratio=_estimate(row, _number(row["ratio_vs_float"])),
        same=tuple(same.split(SEPARATOR)) if same else (),
    )


def _number(value: object, otherwise: float | None = None) -> float:
    """Return the value as a float, or `otherwise` for None. Raises TypeError or ValueError if it is
    not a number."""
    if value is None and otherwise is not None:
        return otherwise
    return float(value)  # type: ignore[arg-type]


def _estimate(row: Row, value: float) -> Estimate:
    low, high = _number(row["low"], -math.inf), _number(row["high"], math.inf)
    return Estimate.between(value, low, high, int(_number(row["n"])))


def _unreadable(file: Path, error: Exception) -> RunDirError:
    return RunDirError(
        f"Expected {file} to be a table that sensitivity wrote, got {type(error).__name__}: "
        f"{error}; write it again or remove it."
    )
