"""Reads from a run directory what its report shows."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from sensitivity.errors import RunDirError
from sensitivity.exporters.facts import facts
from sensitivity.exporters.verification import Verification
from sensitivity.measure.scan import Scan
from sensitivity.quantizers.base import form_of
from sensitivity.records import BenchResult, Distributions, ModelGraph, Plan, Recalibrated
from sensitivity.registry import load
from sensitivity.reporting.data import ReportData, can_be_exported
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.number_formats import format_of
from sensitivity.reporting.outcome import verdict_of
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.steps.plan_files import choices_of
from sensitivity.steps.recalibrate import FILE as RECALIBRATION
from sensitivity.steps.recalibrate import in_force
from sensitivity.tasks.detection_detail import DetectionDetail

STALE = (
    "The exported files and their latencies are of an earlier plan and are not shown; run "
    "export and bench again."
)


def report_data(directory: Path, name: str | None = None) -> ReportData:
    """Return what the report of a run directory shows of the steps done in it.

    name: name of the plan; None for the one in plan.json.
    Raises RunDirError.
    """
    run_dir = RunDir(directory, name)
    info = _info_of_plan(run_dir)
    chosen = run_dir.read_if_there("plan.json", Plan)
    verified = run_dir.read_if_there("export.json", Verification)
    timed = run_dir.bench() if run_dir.file("bench.json").exists() else None
    unfinished = run_dir.unfinished()
    is_stale = _is_stale(chosen, verified, timed)
    if is_stale:
        verified = timed = None
    if chosen:
        metric = MetricFormat(info.metric, info.full_scale)
        exportable = can_be_exported(info.warnings)
        chosen = replace(chosen, verdict=verdict_of(chosen, timed, metric, exportable=exportable))
    scanned = run_dir.read_if_there("scan.json", Scan) or Scan(info.mode, {}, ())
    bench = timed or BenchResult((), (), info.environment, {}, ())
    warnings = [*info.warnings]
    if is_stale:
        warnings.append(STALE)
    if unfinished:
        warnings.append(unfinished)
    return ReportData(
        title=_title(run_dir, format_of(info.quantizers)),
        metric=info.metric,
        full_scale=info.full_scale,
        mode=info.mode,
        command="\n".join(dict.fromkeys(info.commands.values())),
        settings=info.settings | _cost_of_run(info),
        baselines=scanned.baselines,
        effects=scanned.effects,
        units=info.units,
        plan=chosen,
        choices=choices_of(run_dir, chosen) if chosen else (),
        directory=str(directory),
        ranges=_ranges_of(run_dir, chosen),
        name=name,
        detection=_detection_of(run_dir, chosen),
        timings=bench.timings,
        judged=bench.judged,
        bench_sentences=bench.sentences,
        environment=bench.environment,
        # What was built from the files has a section of its own.
        verification=facts(replace(verified, engines={}, not_built={})) if verified else None,
        engines=verified.engines if verified else {},
        not_built=verified.not_built if verified else {},
        warnings=tuple(warnings),
        scales=info.scales,
        sharing=scanned.sharing,
        format=format_of(info.quantizers),
        graph=run_dir.read_if_there("graph.json", ModelGraph),
        quantizers=info.quantizers,
        resume_command=_command_to_continue(run_dir),
        lowers=form_of(load("quantizers", info.source)) != "onnx",
        distributions=run_dir.read_if_there("distributions.json", Distributions),
    )


def _command_to_continue(run_dir: RunDir) -> str:
    """Return the command that continues the scan, with a placeholder if its task no longer
    exists."""
    try:
        return run_dir.resume_command()
    except RunDirError:
        return f"sensitivity scan TASK --out {shlex.quote(str(run_dir.path))} --resume"


def _info_of_plan(run_dir: RunDir) -> RunInfo:
    """Return the head of the run without the verbs of its other plans."""
    info = run_dir.info()
    own = {run_dir.step(verb) for verb in ("plan", "export", "bench")} | {"run", "scan"}
    return replace(
        info,
        commands={step: command for step, command in info.commands.items() if step in own},
        seconds={step: seconds for step, seconds in info.seconds.items() if step in own},
    )


def _title(run_dir: RunDir, format_name: str) -> str:
    plan = "" if run_dir.name is None else f", plan {run_dir.name},"
    return f"{run_dir.path.resolve().name}{plan} in {format_name}"


def _is_stale(
    chosen: Plan | None, verified: Verification | None, timed: BenchResult | None
) -> bool:
    """Return whether the files or their latencies belong to an earlier plan."""
    if chosen is None:
        return False
    has_old_files = verified is not None and not verified.is_of(chosen)
    has_old_times = timed is not None and timed.skip != chosen.skip
    return has_old_files or has_old_times


def _ranges_of(run_dir: RunDir, chosen: Plan | None) -> tuple[Recalibrated, ...]:
    """Return the ranges in force when the plan was searched for, or only the plan's own for a
    folder without them."""
    if chosen is None:
        return ()
    has_file = run_dir.file(RECALIBRATION).exists()
    recalibration = in_force(run_dir, chosen) if has_file else None
    return recalibration.units if recalibration else chosen.recalibrated


def _detection_of(run_dir: RunDir, chosen: Plan | None) -> DetectionDetail | None:
    """Return what the plan changes for a detector; None if the stored detail belongs to another
    plan."""
    detail = run_dir.read_if_there("detection.json", DetectionDetail)
    if detail is None or chosen is None or detail.skip != chosen.skip:
        return None
    return detail


def _cost_of_run(info: RunInfo) -> dict[str, str]:
    """Return what the measurements cost, for the report."""
    seconds = ", ".join(f"{verb} {value:.1f} s" for verb, value in info.seconds.items())
    spent = {"samples forwarded": str(info.samples), "time": seconds}
    if info.simulator:
        name, reason = info.simulator["name"], info.simulator["reason"]
        spent["simulator"] = f"{name}: {reason}"
    return spent
