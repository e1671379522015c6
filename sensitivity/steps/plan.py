"""The plan of a run, with all that goes beside it: plan.json, frontier.json, frontier.csv, and
advice."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sensitivity.config import (
    PlanChoices,
    PlanSettings,
    RunSettings,
    RuntimeChoices,
    command_line,
    formats_of,
    target_of,
)
from sensitivity.errors import SensitivityError
from sensitivity.files import write_whole
from sensitivity.journal.journal import task_of
from sensitivity.measure.ranking import estimate
from sensitivity.measure.scan import Scan
from sensitivity.measure.study import Study
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, name_in_words
from sensitivity.records import (
    BenchResult,
    CostModel,
    Estimate,
    FrontierPoint,
    Plan,
    Recalibrated,
    Target,
    cost_of,
)
from sensitivity.registry import load
from sensitivity.reporting.advice import advice
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.data import Choice
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.number_formats import format_of, in_format, plan_formats
from sensitivity.reporting.outcome import verdict_of
from sensitivity.reporting.tables import frontier_table
from sensitivity.rules.widths import refuse_wide
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.runtimes.base import Runtime
from sensitivity.search.asking import asks_for
from sensitivity.search.choose import Means, choose_plan
from sensitivity.search.frontier import (
    HOLDOUT_SAMPLES,
    Frontier,
    best_points,
    confirm_values,
    correction,
    measured_frontier,
    replanned,
)
from sensitivity.search.wide import wide_ranges
from sensitivity.session import Session
from sensitivity.signals.base import Signal
from sensitivity.steps import later
from sensitivity.steps.named_plans import keep_earlier
from sensitivity.steps.recalibrate import FILE as RECALIBRATION
from sensitivity.steps.recalibrate import (
    Recalibration,
    in_force,
    kept,
    own_quantized,
    recalibration,
    without_ranges,
)
from sensitivity.tasks.load import Given, same_task, task_digest
from sensitivity.units.units import Pins, pins

if TYPE_CHECKING:
    from sensitivity.planners.base import Probe

COUNTED = {"max_drop", "target", "confidence", "frontier", "search", "directory"}
"""Settings that may change between two plans of one search; all others are of the search."""

OWN_RANGES = (
    "Other ranges of {} units were tried as well: the plan found under them leaves out {} and is "
    "not as good, so all units have their own ranges."
)

Found = TypeVar("Found")

SearchSettings = RunSettings | PlanSettings
"""What tells a search what to look for; its other settings are of no interest here."""


@dataclass(frozen=True)
class Question:
    """What is searched for, the same under all ranges that are tried.

    fixed: units that are not up for choice. cost, probe: what sets cost, and what measures whole
    engines; None where units are counted.
    """

    study: Study
    planner: str
    target: Target
    fixed: Pins
    cost: CostModel | None
    probe: Probe | None


@dataclass(frozen=True)
class Attempt:
    """What one search found. ranges: those that it was made under.

    plan: as the search left it. points: the sets that it measured. values: float[1 + points, m], of
    `confirm_values`.
    """

    ranges: Recalibration
    plan: Plan
    points: tuple[FrontierPoint, ...]
    values: np.ndarray


def search_plan(
    session: Session, settings: SearchSettings, scanned: Scan, runtime: Runtime
) -> Plan:
    """Search for a plan and write plan.json, frontier.json and frontier.csv."""
    check_formats(settings, session.source)
    target = target_of(settings, session.task.full_scale)
    fixed = pins(settings.skip, settings.keep, session.units)
    unseen = set(scanned.unjudged) - {*fixed.skip, *fixed.keep}
    # Leaving those out would cost time and gain nothing that is measured.
    fixed = replace(fixed, keep=(*fixed.keep, *sorted(unseen)))
    own = new = Recalibration("", (), scanned)
    if not settings.no_recalibrate:
        new = recalibration(session, scanned, target, fixed.skip)
    with _priced(session, settings, runtime) as (cost, probe):
        study = _study(session, settings, fixed)
        question = Question(study, settings.planner, target, fixed, cost, probe)
        ranges = (new, own) if cost and new.units else (new,)
        attempts = under_each(
            session, ranges, partial(_attempt, session, question), lambda one: one.plan, fixed.skip
        )
        best = attempts[cheapest([attempt.plan for attempt in attempts], cost, probe)]
    found = _finished_plan(session, attempts, best, cost)
    frontier = Frontier(best.points, _choices(settings), cost, dict(question.study.wide))
    _write(session.run_dir, found, frontier, best.values)
    return _advised(session.run_dir, found)


def _finished_plan(
    session: Session, attempts: Sequence[Attempt], best: Attempt, cost: CostModel | None
) -> Plan:
    """The plan of the best attempt with all that was found around it; advice and verdict follow
    from it later."""
    plan, used = best.plan, best.ranges
    quantized, recalibrated = plan.metric.quantized, None
    if used.units:
        quantized, recalibrated = own_quantized(session), plan.metric.quantized
    metric = replace(
        plan.metric,
        quantized=quantized,
        recalibrated=recalibrated,
        confirm_drop=_corrected_drop(attempts, plan, cost),
        holdout_quantized=_int8_held_out(session, plan),
    )
    notes = [*plan.notes]
    if used.note:
        notes.append(used.note)
    first = attempts[0]
    if best is not first:
        notes.append(OWN_RANGES.format(len(first.ranges.units), len(first.plan.skip)))
    return replace(
        plan,
        metric=metric,
        recalibrated=_still_recalibrated(used, plan),
        notes=tuple(notes),
    )


def _still_recalibrated(ranges: Recalibration, plan: Plan) -> tuple[Recalibrated, ...]:
    """The units with other ranges in 8 bits of which something stays in the plan."""
    wide = {one.quantizer for one in plan.wide_ranges}
    return without_ranges(kept(ranges.units, plan.quantizers), wide)


def _study(session: Session, settings: SearchSettings, fixed: Pins) -> Study:
    """The study of the session, with activations of 16 bits for units that are up for choice where
    they were asked for."""
    if "int16" not in formats_of(settings):
        return session.study
    pinned = {*fixed.skip, *fixed.keep}
    source: Any = session.source
    free = [unit for unit in session.study.units if unit.name not in pinned]
    return replace(session.study, wide=wide_ranges(source, free))


def check_formats(settings: PlanChoices, source: QuantizedModel | None = None) -> None:
    """Raise SensitivityError where --formats asks for 16 bits that the target does not take, or
    that the model's quantizers cannot have. source: None where it is not open yet."""
    if "int16" not in formats_of(settings):
        return
    for target in (getattr(settings, "for_", None), getattr(settings, "runtime", None)):
        refuse_wide(target, "--formats int16")
    if source is not None and not isinstance(source, Recalibratable):
        raise SensitivityError(
            "Expected a model whose quantizers can take other ranges for --formats int16, got "
            f"{name_in_words(source)}; leave int16 out, or scan its Q/DQ file."
        )


def _corrected_drop(
    attempts: Sequence[Attempt], plan: Plan, cost: CostModel | None
) -> Estimate | None:
    """The drop of the plan on `confirm`, corrected for all sets that it was chosen among."""
    first, *others = attempts
    points = [point for attempt in attempts for point in attempt.points]
    # The first row of each is float.
    values = np.concatenate([first.values, *(attempt.values[1:] for attempt in others)])
    return correction(values, points, plan.names, plan.floor, cost)


def wants_cost(settings: PlanChoices) -> bool:
    """Whether the planner compares skip-sets by what they cost to run, rather than by how many
    units they hold."""
    return bool(getattr(load("planners", settings.planner), "wants_cost", False))


def under_each(
    session: Session,
    ranges: Iterable[Recalibration],
    search: Callable[[Recalibration], Found],
    plan_of: Callable[[Found], Plan],
    pinned: Collection[str] = (),
) -> list[Found]:
    """What `search` finds under these ranges in turn, until a plan leaves out no more than
    `pinned`."""
    found: list[Found] = []
    for one in ranges:
        with session.measurer.with_ranges(one.ranges):
            found.append(search(one))
        if not set(plan_of(found[-1]).outside) - set(pinned):
            break
    return found


def cheapest(plans: Sequence[Plan], cost: CostModel | None, probe: Probe | None) -> int:
    """Which of plans that were searched for under different ranges takes least, the first of
    equals.

    Engines are measured side by side where `probe` measures them. Where no plan meets the target:
    the most accurate one.
    """
    met = [at for at, plan in enumerate(plans) if plan.met]
    if not met:
        return int(np.argmax([plan.metric.confirm.value for plan in plans]))
    sets = [plans[at].names for at in met]
    if len(set(map(frozenset, sets))) == 1:
        return met[0]
    # Engines with activations of 16 bits are not built in a search.
    in_float = not any(plans[at].widened for at in met)
    taken = probe(sets) if probe and in_float else [cost_of(names, cost) for names in sets]
    return met[int(np.argmin(taken))]


def _attempt(session: Session, question: Question, ranges: Recalibration) -> Attempt:
    """Search for a plan under these ranges, which the session has at the moment."""
    offered = question.study.wide.values()
    session.measurer.offer((*ranges.ranges, *chain.from_iterable(offered)))
    plan = _choose(session, question, ranges.scan)
    points, values = _frontier(question.study, plan, question.cost)
    return Attempt(ranges, plan, points, values)


def _int8_held_out(session: Session, plan: Plan) -> Estimate | None:
    """The metric of everything in INT8, as it was calibrated, on `holdout`: the reader sees what
    the plan gains there. None where that is a whole evaluation, or many samples."""
    is_cheap = session.has_samples and plan.metric.holdout.n <= HOLDOUT_SAMPLES
    if not is_cheap:
        return None
    measurer = session.measurer
    (scores,) = measurer.scores(
        [session.study.baselines["quantized"]], "holdout", "plan: INT8 on holdout"
    )
    return estimate(scores, measurer.task.aggregate)


def _choose(session: Session, question: Question, scanned: Scan) -> Plan:
    signal, alone = _signal(session, scanned)
    if session.measurer.ranges:
        alone = None  # the scan's own signal is of the ranges that the model came with
    means = Means(question.planner, question.cost, question.probe, signal, alone, session.ends())
    return choose_plan(question.study, scanned, question.target, means, question.fixed)


def replan(run_dir: RunDir, settings: SearchSettings, given: Given | None = None) -> Plan | None:
    """A plan for another target from what an earlier search of the same kind measured; loads no
    task.

    given: the task; None for that of the run, which nobody can have changed where it is in no file.
    None where there was no such search, the task has changed since, or no measured set answers for
    the target.
    """
    searches = [each for place in run_dir.plans() if (each := _search_of(place, settings))]
    if not searches:
        return None
    info = run_dir.info()
    if given is None and not info.in_python:
        given = run_dir.reference()
    if given is not None and not same_task(task_of(run_dir.journal), task_digest(given)):
        return None
    target = target_of(settings, info.full_scale)
    for search in searches:
        found = _taken_from(search, target, info)
        if found is not None:
            _write(run_dir, found, search.frontier, search.values)
            if search.ranges is not None:
                run_dir.write(RECALIBRATION, search.ranges)
            return _advised(run_dir, found)
    return None


@dataclass(frozen=True)
class Search:
    """What an earlier search left. plan: the last one taken from it. values: float[1 + points, m],
    of `confirm_values`. ranges: tried in it; None where it took them as they are."""

    plan: Plan
    frontier: Frontier
    values: np.ndarray
    ranges: Recalibration | None


def _search_of(run_dir: RunDir, settings: SearchSettings) -> Search | None:
    """The search for a plan, if it was of the same kind and left all that another target takes."""
    earlier = run_dir.read_if_there("plan.json", Plan)
    frontier = run_dir.read_if_there("frontier.json", Frontier)
    if earlier is None or frontier is None or frontier.search != _choices(settings):
        return None
    if not frontier.points or not run_dir.file("frontier.npz").exists():
        return None
    values = run_dir.read_values("frontier.npz")
    if len(values) != 1 + len(frontier.points):
        return None
    return Search(earlier, frontier, values, in_force(run_dir, earlier))


def _taken_from(search: Search, target: Target, info: RunInfo) -> Plan | None:
    found = replanned(
        search.plan, search.frontier, search.values, target, info.units, info.quantizers
    )
    if found is None or search.ranges is None:
        return found and replace(found, recalibrated=())
    return replace(found, recalibrated=_still_recalibrated(search.ranges, found))


def with_timings(run_dir: RunDir, result: BenchResult) -> None:
    """Put the measured latency into plan.json and the frontier, and the advice that follows from
    it."""
    found = run_dir.plan()
    times = {name: timing.median_ms for timing in result.timings for name in timing.variants}
    found = replace(
        found, measured_ms=times.get("partial", times.get("int8") if not found.outside else None)
    )
    frontier = run_dir.read_if_there("frontier.json", Frontier)
    if frontier is not None:
        known: dict[tuple[str, ...], float | None] = {(): times.get("int8")}
        known[found.names] = found.measured_ms
        points = tuple(
            replace(point, measured_ms=known.get(point.names, point.measured_ms))
            for point in frontier.points
        )
        run_dir.write("frontier.json", replace(frontier, points=points))
        _write_csv(run_dir, found, points, frontier.cost)
    _advised(run_dir, found, result)


def read_frontier(run_dir: RunDir) -> tuple[Frontier, list[FrontierPoint]]:
    """What plans have met so far, and those of it that nothing beats, the cheapest first. Raises
    RunDirError."""
    frontier = run_dir.read("frontier.json", Frontier)
    return frontier, best_points(frontier.points, frontier.cost)


def choices_of(run_dir: RunDir, earlier: Plan) -> tuple[Choice, ...]:
    """The sets that the search of a plan measured, the cheapest first, each with the command that
    makes it the plan; none where there was no such search. Raises RunDirError."""
    frontier = run_dir.read_if_there("frontier.json", Frontier)
    if frontier is None:
        return ()
    points = sorted(frontier.points, key=lambda point: cost_of(point.names, frontier.cost))
    info = run_dir.info()
    asked = asks_for(points, earlier, info.full_scale)
    # A named plan keeps its target: what another one chooses becomes the plan without a name.
    settings = PlanSettings(directory=run_dir.path, **_settings_of(frontier.search))
    work = frontier.cost if frontier.cost and frontier.cost.unit == "work" else None
    choices = []
    for point, target in zip(points, asked, strict=True):
        choice = Choice(point, work=work.of(point.names) if work else None)
        # Float itself is no plan: a search for its accuracy may find one.
        if target is not None and len(point.skip) < len(info.units):
            command = command_line("plan", replace(settings, **target.settings))
            choice = replace(choice, command=command, allowed=target.allowed)
        choices.append(choice)
    return tuple(choices)


def _settings_of(search: Mapping[str, str]) -> dict[str, Any]:
    """The settings that `_choices` wrote as texts."""
    found = {}
    for name, text in search.items():
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a word is no literal
            found[name] = text
    return found


def _advised(run_dir: RunDir, found: Plan, bench: BenchResult | None = None) -> Plan:
    info: RunInfo = run_dir.info()
    metric = MetricFormat(info.metric, info.full_scale)
    timings = bench.timings if bench else ()
    found = replace(found, advice=advice(found, timings, len(info.units), metric))
    found = replace(found, verdict=verdict_of(found, bench, metric))
    found = _said_in(found, format_of(info.quantizers))
    found = replace(found, formats=plan_formats(info.units, info.quantizers, found))
    found = replace(found, notes=(*found.notes, *keep_earlier(run_dir, found)))
    run_dir.write("plan.json", found)
    return found


def _said_in(found: Plan, format_name: str) -> Plan:
    """The plan with its sentences about the format of the model."""

    def said(sentences: Iterable[str]) -> tuple[str, ...]:
        return tuple(in_format(sentence, format_name) for sentence in sentences)

    return replace(
        found,
        reason=found.reason and in_format(found.reason, format_name),
        try_next=said(found.try_next),
        notes=said(found.notes),
        advice=found.advice and replace(found.advice, sentences=said(found.advice.sentences)),
        verdict=found.verdict
        and replace(
            found.verdict,
            accuracy_sentence=in_format(found.verdict.accuracy_sentence, format_name),
            speed_sentence=in_format(found.verdict.speed_sentence, format_name),
            action_sentence=in_format(found.verdict.action_sentence, format_name),
        ),
    )


def _priced(
    session: Session, settings: SearchSettings, runtime: Runtime
) -> AbstractContextManager[tuple[CostModel | None, Probe | None]]:
    """None for a planner that counts layers, unless a cost was asked for."""
    if settings.cost is None and not wants_cost(settings):
        return nullcontext((None, None))
    return later.price.priced(session, settings.cost or "table", runtime, settings.threads)


def _signal(session: Session, scanned: Scan) -> tuple[Signal | None, dict[str, float] | None]:
    """What re-ranks the units, and its values for each alone where the scan has them; None where
    outputs are unknown or the user wants the order of the metric."""
    name = session.run_dir.info().settings.get("signal", session.usual_signal)
    if not session.has_samples or name == "metric":
        return None, None
    if name == "fisher":  # says nothing about a set of units
        return session.distortion(session.usual_signal), None
    return session.distortion(name), scanned.signal or None


def _frontier(
    study: Study, found: Plan, cost: CostModel | None
) -> tuple[tuple[FrontierPoint, ...], np.ndarray]:
    points = measured_frontier(study, found, cost)
    points = tuple(
        replace(one, measured_ms=found.measured_ms) if one.names == found.names else one
        for one in points
    )
    return points, confirm_values(study, points)


def _write(run_dir: RunDir, found: Plan, frontier: Frontier, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, values=values)
    # A kill between the two must not leave the points of one search beside the values of another.
    run_dir.file("frontier.json").unlink(missing_ok=True)
    write_whole(run_dir.file("frontier.npz"), buffer.getvalue())
    run_dir.write("frontier.json", frontier)
    _write_csv(run_dir, found, frontier.points, frontier.cost)


def _write_csv(
    run_dir: RunDir, found: Plan, points: Sequence[FrontierPoint], cost: CostModel | None
) -> None:
    best = {point.names for point in best_points(points, cost)}
    write_csv(frontier_table(points, found, cost, best), run_dir.file("frontier.csv"))


def _choices(settings: SearchSettings) -> dict[str, str]:
    """What two searches must share for one to answer for the other; the runtime only where it was
    timed."""
    names = {
        field.name for kind in (PlanChoices, RuntimeChoices) for field in fields(kind)
    } - COUNTED
    timed = settings.cost is not None or wants_cost(settings)
    names -= set() if timed else {"runtime", "threads"}
    if settings.formats is None:  # as in searches from before there was a choice
        names -= {"formats"}
    return {name: str(getattr(settings, name)) for name in sorted(names)}
