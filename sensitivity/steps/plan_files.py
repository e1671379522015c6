"""Writes and reads plan.json, frontier.json and frontier.csv, with the advice and the verdict."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from sensitivity.commands import command_line
from sensitivity.config import (
    PlanChoices,
    PlanSettings,
    RunSettings,
    RuntimeChoices,
    formats_of,
)
from sensitivity.files import write_whole
from sensitivity.planners.base import wants_cost
from sensitivity.records import BenchResult, CostModel, FrontierPoint, Plan, Recalibrated, cost_of
from sensitivity.reporting.advice import advice
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.data import Choice, can_be_exported
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.number_formats import format_of, in_format, plan_formats
from sensitivity.reporting.outcome import verdict_of
from sensitivity.reporting.tables import frontier_table
from sensitivity.rules.formats import BORDERS, target_of_runtime
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.search.frontier import Frontier, best_points
from sensitivity.search.target_settings import target_settings
from sensitivity.steps.named_plans import keep_earlier
from sensitivity.steps.recalibrate import (
    Recalibration,
    kept,
    without_ranges,
)

COUNTED = {"max_drop", "target", "confidence", "frontier", "search", "directory"}
"""Settings that may differ between two plans of one search. All others belong to the search."""

SearchSettings = RunSettings | PlanSettings
"""Settings that contain those of a search."""


def write_search(run_dir: RunDir, plan: Plan, frontier: Frontier, values: np.ndarray) -> None:
    """Write the sets that a search measured: frontier.json, frontier.npz and frontier.csv.

    plan: the one taken from it, which frontier.csv marks.
    values: float[1 + points, m], see `confirm_values`.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, values=values)
    # A process killed between the two writes must not leave the points of one search with the
    # values of another.
    run_dir.file("frontier.json").unlink(missing_ok=True)
    write_whole(run_dir.file("frontier.npz"), buffer.getvalue())
    run_dir.write("frontier.json", frontier)
    _write_csv(run_dir, plan, frontier.points, frontier.cost)


def _write_csv(
    run_dir: RunDir, plan: Plan, points: Sequence[FrontierPoint], cost: CostModel | None
) -> None:
    best = {point.names for point in best_points(points, cost)}
    write_csv(frontier_table(points, plan, cost, best), run_dir.file("frontier.csv"))


def write_plan(run_dir: RunDir, plan: Plan, bench: BenchResult | None = None) -> Plan:
    """Return the plan with its advice and verdict, after writing it to plan.json.

    bench: latencies of the plan's own files; None if they were not timed.
    """
    info: RunInfo = run_dir.info()
    metric = MetricFormat(info.metric, info.full_scale)
    timings = bench.timings if bench else ()
    exportable = can_be_exported(info.warnings)
    advised = advice(plan, timings, len(info.units), metric, exportable=exportable)
    plan = replace(plan, advice=advised)
    plan = replace(plan, verdict=verdict_of(plan, bench, metric, exportable=exportable))
    plan = _worded_for(plan, format_of(info.quantizers))
    plan = replace(plan, formats=plan_formats(info.units, info.quantizers, plan))
    plan = replace(plan, notes=(*plan.notes, *keep_earlier(run_dir, plan)))
    run_dir.write("plan.json", plan)
    return plan


def _worded_for(plan: Plan, format_name: str) -> Plan:
    """Return the plan with its sentences adapted to the model's format."""

    def worded(sentences: Iterable[str]) -> tuple[str, ...]:
        return tuple(in_format(sentence, format_name) for sentence in sentences)

    return replace(
        plan,
        reason=plan.reason and in_format(plan.reason, format_name),
        try_next=worded(plan.try_next),
        notes=worded(plan.notes),
        advice=plan.advice and replace(plan.advice, sentences=worded(plan.advice.sentences)),
        verdict=plan.verdict
        and replace(
            plan.verdict,
            accuracy_sentence=in_format(plan.verdict.accuracy_sentence, format_name),
            speed_sentence=in_format(plan.verdict.speed_sentence, format_name),
            action_sentence=in_format(plan.verdict.action_sentence, format_name),
        ),
    )


def with_timings(run_dir: RunDir, result: BenchResult) -> None:
    """Write the measured latency into plan.json and the frontier, with the advice that follows from
    it."""
    chosen = run_dir.plan()
    times = {name: timing.median_ms for timing in result.timings for name in timing.variants}
    chosen = replace(
        chosen, measured_ms=times.get("partial", times.get("int8") if not chosen.outside else None)
    )
    frontier = run_dir.read_if_there("frontier.json", Frontier)
    if frontier is not None:
        known: dict[tuple[str, ...], float | None] = {(): times.get("int8")}
        known[chosen.names] = chosen.measured_ms
        points = tuple(
            replace(point, measured_ms=known.get(point.names, point.measured_ms))
            for point in frontier.points
        )
        run_dir.write("frontier.json", replace(frontier, points=points))
        _write_csv(run_dir, chosen, points, frontier.cost)
    write_plan(run_dir, chosen, result)


def read_frontier(run_dir: RunDir) -> tuple[Frontier, list[FrontierPoint]]:
    """Return all sets measured so far, and those that no other set beats, the cheapest first.

    Raises RunDirError.
    """
    frontier = run_dir.read("frontier.json", Frontier)
    return frontier, best_points(frontier.points, frontier.cost)


def choices_of(run_dir: RunDir, earlier: Plan) -> tuple[Choice, ...]:
    """Return the sets that the search of a plan measured, the cheapest first, each with the command
    that makes it the plan.

    Returns nothing if there was no such search. Raises RunDirError.
    """
    frontier = run_dir.read_if_there("frontier.json", Frontier)
    if frontier is None:
        return ()
    points = sorted(frontier.points, key=lambda point: cost_of(point.names, frontier.cost))
    info = run_dir.info()
    targets = target_settings(points, earlier, info.full_scale)
    # A named plan keeps its target: choosing another set changes the plan without a name.
    settings = PlanSettings(directory=run_dir.path, **_settings_of(frontier.search))
    work = frontier.cost if frontier.cost and frontier.cost.unit == "work" else None
    choices = []
    for point, target in zip(points, targets, strict=True):
        choice = Choice(point, work=work.of(point.names) if work else None)
        # Float itself is not a plan, and a search for its accuracy may find a better set.
        if target is not None and len(point.skip) < len(info.units):
            command = command_line("plan", replace(settings, **target.settings))
            choice = replace(choice, command=command, allowed=target.allowed)
        choices.append(choice)
    return tuple(choices)


def search_choices(settings: SearchSettings) -> dict[str, str]:
    """Return the settings that two searches must share for one to answer for the other.

    The runtime is included only if latencies were timed in it.
    """
    names = {
        field.name for kind in (PlanChoices, RuntimeChoices) for field in fields(kind)
    } - COUNTED
    timed = settings.cost is not None or wants_cost(settings.planner)
    names -= set() if timed else {"runtime", "threads"}
    # Searches made before a setting existed stay compatible.
    names -= {"formats"} if settings.formats is None else set()
    names -= {"fine_tune"} if settings.fine_tune == "auto" else set()
    choices = {name: str(getattr(settings, name)) for name in sorted(names)}
    # For TensorRT some units get no FP8 (`steps.plan`).
    if "fp8" in formats_of(settings) and "tensorrt" in plan_targets(settings):
        choices["for_"] = "tensorrt"
    for target in _with_borders(settings):
        choices["for_"] = target
    return choices


def pays_for_borders(settings: SearchSettings) -> bool:
    """Return whether the plan may have 16 bits for a target whose operations read and write one
    type, so that they spread to other layers."""
    return bool(_with_borders(settings))


def _with_borders(settings: SearchSettings) -> list[str]:
    if "int16" not in formats_of(settings):
        return []
    targets = plan_targets(settings)
    return [name for name in targets if name in BORDERS and BORDERS[name].one_type]


def plan_targets(settings: SearchSettings) -> tuple[str, ...]:
    """Return the targets whose formats limit a plan: the one that it is for, and that of its
    runtime."""
    given = getattr(settings, "for_", None), settings.runtime
    return tuple(target_of_runtime(name) for name in given if name is not None)


def _settings_of(search: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that `search_choices` wrote as text."""
    settings = {}
    for name, text in search.items():
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a plain word is not a literal
            settings[name] = text
    return settings


def still_recalibrated(ranges: Recalibration, plan: Plan) -> tuple[Recalibrated, ...]:
    """Return the units with other ranges in INT8 that are at least partly used in the plan."""
    elsewhere = {of_format.quantizer for of_format in plan.format_ranges}
    return without_ranges(kept(ranges.units, plan.quantizers), elsewhere)
