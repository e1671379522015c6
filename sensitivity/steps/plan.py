"""Plans a run, and writes plan.json, frontier.json, frontier.csv and the advice."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from sensitivity.config import (
    CostName,
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
from sensitivity.planners.base import wants_cost
from sensitivity.planners.exhaustive import ExhaustivePlanner, check_number
from sensitivity.quantizers.base import QuantizedModel, Recalibratable, form_of, name_in_words
from sensitivity.records import (
    BenchResult,
    CostModel,
    Estimate,
    FrontierPoint,
    Plan,
    Range,
    Recalibrated,
    Target,
    cost_of,
)
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
from sensitivity.search.choose import SearchOptions, choose_plan
from sensitivity.search.frontier import (
    HOLDOUT_SAMPLES,
    Frontier,
    best_points,
    confirm_values,
    correction,
    measured_frontier,
    replanned,
)
from sensitivity.search.part import Part, first_part, part_note
from sensitivity.search.wide import wide_ranges, with_plain_weights
from sensitivity.session import Session
from sensitivity.signals.base import Signal
from sensitivity.steps import later
from sensitivity.steps.fine_tune import with_tuning
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
"""Settings that may differ between two plans of one search. All others belong to the search."""

OWN_RANGES = (
    "Other ranges of {} units were tried as well: the plan found under them leaves out {} and is "
    "not as good, so all units keep their original ranges."
)

MUCH_MORE = 4.0
"""Factor between two losses of INT8 beyond which the better ranges alone are searched under."""

SearchSettings = RunSettings | PlanSettings
"""Settings that contain those of a search."""


@dataclass(frozen=True)
class Question:
    """What is searched for, the same under all ranges that are tried.

    fixed: units that are not up for choice.
    cost: what sets cost; None if units are counted.
    probe: measures whole engines; None if they are not measured.
    """

    study: Study
    planner: str
    target: Target
    fixed: Pins
    cost: CostModel | None
    probe: Probe | None


@dataclass(frozen=True)
class Attempt:
    """Result of one search.

    ranges: the ranges that it was made under.
    wide: the ranges that give a unit 16 bits, by unit.
    plan: as the search left it.
    points: the sets that it measured.
    values: float[1 + points, m], see `confirm_values`.
    """

    ranges: Recalibration
    wide: Mapping[str, tuple[Range, ...]]
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
    # Leaving these out would cost time and gain nothing that is measured.
    fixed = replace(fixed, keep=(*fixed.keep, *sorted(unseen)))
    study = _study(session, settings, fixed)
    part = Part(None) if _is_exact(session) else first_part(session.task, settings.planner)
    with session.measurer.only_first("confirm", part.batches):
        own = new = Recalibration("", (), scanned)
        if not settings.no_recalibrate:
            new = recalibration(
                session, scanned, target, fixed.skip, settings.fine_tune, wide=bool(study.wide)
            )
            new = with_tuning(session, new, target, fixed.skip, settings.fine_tune)
        with _priced(session, settings, runtime) as (cost, probe):
            question = Question(study, settings.planner, target, fixed, cost, probe)
            # The first search decides on which part of `confirm` all sets are compared.
            search = partial(_attempt, session, question, first=new)
            attempts = [search(new)]
            plan = attempts[0].plan
            may_cost_less = cost and new.units and set(plan.outside) - set(fixed.skip)
            if may_cost_less and _may_own_cost_less(session, plan):
                attempts.append(search(own))
            best = attempts[cheapest([attempt.plan for attempt in attempts], cost, probe)]
        chosen = _finished_plan(session, attempts, best, cost)
        note = part.note or part_note(chosen, session.measurer)
    frontier = Frontier(best.points, _choices(settings), cost, dict(best.wide))
    chosen = replace(chosen, notes=(*chosen.notes, *([note] if note else [])))
    _write(session.run_dir, chosen, frontier, best.values)
    return _advised(session.run_dir, chosen)


def _may_own_cost_less(session: Session, plan: Plan) -> bool:
    """Return whether a search under the original ranges may find a cheaper plan.

    It cannot in practice if everything in INT8 loses much more with them than with the new ranges,
    and than the target allows.

    plan: found under the new ranges.
    """
    start, quantized = plan.metric.float.value, plan.metric.quantized.value
    lost = max(start - quantized, start - plan.floor)
    return start - own_quantized(session).value <= MUCH_MORE * lost


def _is_exact(session: Session) -> bool:
    """Return whether the scan was asked to measure everything on whole splits."""
    return session.run_dir.info().settings.get("exact") == str(True)


def _finished_plan(
    session: Session, attempts: Sequence[Attempt], best: Attempt, cost: CostModel | None
) -> Plan:
    """Return the plan of the best attempt with everything that was found around it, except advice
    and verdict, which follow from it later."""
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
        tuning=used.tuning,
    )


def _still_recalibrated(ranges: Recalibration, plan: Plan) -> tuple[Recalibrated, ...]:
    """Return the units with other ranges in 8 bits that are at least partly used in the plan."""
    wide = {wide_range.quantizer for wide_range in plan.wide_ranges}
    return without_ranges(kept(ranges.units, plan.quantizers), wide)


def _study(session: Session, settings: SearchSettings, fixed: Pins) -> Study:
    """Return the study of the session, with 16-bit activations for units that are up for choice if
    these were asked for."""
    if "int16" not in formats_of(settings):
        return session.study
    pinned = {*fixed.skip, *fixed.keep}
    source: Any = session.source
    free = [unit for unit in session.study.units if unit.name not in pinned]
    wide = wide_ranges(source, free)
    if settings.planner == ExhaustivePlanner.name:  # before it searches without 16 bits
        check_number(len(free), len(wide))
    return replace(session.study, wide=wide)


def check_formats(settings: PlanChoices, source: QuantizedModel | None = None) -> None:
    """Raise SensitivityError if --formats asks for 16 bits that the target or the model's
    quantizers cannot take.

    source: None if it is not open yet.
    """
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
    """Return the drop of the plan on `confirm`, corrected for all sets that it was chosen among."""
    first, *others = attempts
    points = [point for attempt in attempts for point in attempt.points]
    # The first row of each attempt is float.
    values = np.concatenate([first.values, *(attempt.values[1:] for attempt in others)])
    return correction(values, points, plan.names, plan.floor, cost)


def cheapest(plans: Sequence[Plan], cost: CostModel | None, probe: Probe | None) -> int:
    """Return the index of the cheapest of several plans that were searched for under different
    ranges.

    Among equals the first one is taken. If `probe` measures engines, they are measured side by
    side. If no plan meets the target, the most accurate one is taken.
    """
    met = [at for at, plan in enumerate(plans) if plan.met]
    if not met:
        return int(np.argmax([plan.metric.confirm.value for plan in plans]))
    sets = [plans[at].names for at in met]
    if len(set(map(frozenset, sets))) == 1:
        return met[0]
    # A search does not build engines with 16-bit activations.
    in_float = not any(plans[at].widened for at in met)
    costs = probe(sets) if probe and in_float else [cost_of(names, cost) for names in sets]
    return met[int(np.argmin(costs))]


def _attempt(
    session: Session, question: Question, ranges: Recalibration, *, first: Recalibration
) -> Attempt:
    """Search for a plan under these ranges.

    first: ranges of the first search, the only one that may use more of `confirm`.
    """
    units, wide = question.study.units, question.study.wide
    wide = with_plain_weights(wide, units, ranges.ranges)
    question = replace(question, study=replace(question.study, wide=wide))
    with session.measurer.with_ranges(ranges.ranges):
        session.measurer.offer((*ranges.ranges, *chain.from_iterable(wide.values())))
        plan = _choose(session, question, ranges.scan, may_grow=ranges is first)
        points, values = _frontier(question.study, plan, question.cost)
    return Attempt(ranges, wide, plan, points, values)


def _int8_held_out(session: Session, plan: Plan) -> Estimate | None:
    """Return the metric of everything in INT8 as calibrated, on `holdout`, so that the reader sees
    what the plan gains there.

    Returns None if this would take a whole evaluation or many samples.
    """
    is_cheap = session.has_samples and plan.metric.holdout.n <= HOLDOUT_SAMPLES
    if not is_cheap:
        return None
    measurer = session.measurer
    (scores,) = measurer.scores(
        [session.study.baselines["quantized"]], "holdout", "plan: INT8 on holdout"
    )
    return estimate(scores, measurer.task.aggregate)


def _choose(session: Session, question: Question, scanned: Scan, *, may_grow: bool) -> Plan:
    signal, alone = _signal(session, scanned)
    if session.measurer.ranges:
        alone = None  # the scan's own signal belongs to the original ranges
    options = SearchOptions(
        question.planner,
        question.cost,
        question.probe,
        signal,
        alone,
        session.ends(),
        may_grow,
    )
    return choose_plan(question.study, scanned, question.target, options, question.fixed)


def replan(run_dir: RunDir, settings: SearchSettings, given: Given | None = None) -> Plan | None:
    """Choose a plan for another target from the measurements of an earlier search of the same kind,
    without loading a task.

    given: the task; None for the run's own. A task in no file cannot have been changed by anybody.
    Returns None if there was no such search, if the task has changed since, or if no measured set
    meets the target.
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
        chosen = _taken_from(search, target, info)
        if chosen is not None:
            _write(run_dir, chosen, search.frontier, search.values)
            if search.ranges is not None:
                run_dir.write(RECALIBRATION, search.ranges)
            return _advised(run_dir, chosen)
    return None


@dataclass(frozen=True)
class Search:
    """What an earlier search left.

    plan: the last one taken from it.
    values: float[1 + points, m], see `confirm_values`.
    ranges: ranges tried in it; None if it kept those of the model.
    """

    plan: Plan
    frontier: Frontier
    values: np.ndarray
    ranges: Recalibration | None


def _search_of(run_dir: RunDir, settings: SearchSettings) -> Search | None:
    """Return the search for a plan if it was of the same kind and left everything that another
    target needs."""
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
    chosen = replanned(
        search.plan, search.frontier, search.values, target, info.units, info.quantizers
    )
    if chosen is None or search.ranges is None:
        return chosen and replace(chosen, recalibrated=())
    return replace(chosen, recalibrated=_still_recalibrated(search.ranges, chosen))


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
    _advised(run_dir, chosen, result)


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
    asked = asks_for(points, earlier, info.full_scale)
    # A named plan keeps its target: choosing another set changes the plan without a name.
    settings = PlanSettings(directory=run_dir.path, **_settings_of(frontier.search))
    work = frontier.cost if frontier.cost and frontier.cost.unit == "work" else None
    choices = []
    for point, target in zip(points, asked, strict=True):
        choice = Choice(point, work=work.of(point.names) if work else None)
        # Float itself is not a plan, and a search for its accuracy may find a better set.
        if target is not None and len(point.skip) < len(info.units):
            command = command_line("plan", replace(settings, **target.settings))
            choice = replace(choice, command=command, allowed=target.allowed)
        choices.append(choice)
    return tuple(choices)


def _settings_of(search: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings that `_choices` wrote as text."""
    settings = {}
    for name, text in search.items():
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a plain word is not a literal
            settings[name] = text
    return settings


def _advised(run_dir: RunDir, plan: Plan, bench: BenchResult | None = None) -> Plan:
    info: RunInfo = run_dir.info()
    metric = MetricFormat(info.metric, info.full_scale)
    timings = bench.timings if bench else ()
    plan = replace(plan, advice=advice(plan, timings, len(info.units), metric))
    plan = replace(plan, verdict=verdict_of(plan, bench, metric))
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


def _priced(
    session: Session, settings: SearchSettings, runtime: Runtime
) -> AbstractContextManager[tuple[CostModel | None, Probe | None]]:
    """Return the cost model and the probe; (None, None) for a planner that counts layers, unless a
    cost was asked for."""
    if settings.cost is None and not wants_cost(settings.planner):
        return nullcontext((None, None))
    usual: CostName = "macs" if form_of(session.source) == "onnx" else "table"
    return later.price.priced(session, settings.cost or usual, runtime, settings.threads)


def _signal(session: Session, scanned: Scan) -> tuple[Signal | None, dict[str, float] | None]:
    """Return the signal that re-ranks the units, and its values for single units if the scan has
    them.

    Returns None for what is not available: outputs are unknown, or the user wants the order of the
    metric.
    """
    name = session.run_dir.info().settings.get("signal", session.usual_signal)
    if not session.has_samples or name == "metric":
        return None, None
    if name == "fisher":  # is not defined for a set of units
        return session.distortion(session.usual_signal), None
    return session.distortion(name), scanned.signal or None


def _frontier(
    study: Study, plan: Plan, cost: CostModel | None
) -> tuple[tuple[FrontierPoint, ...], np.ndarray]:
    points = measured_frontier(study, plan, cost)
    points = tuple(
        replace(point, measured_ms=plan.measured_ms) if point.names == plan.names else point
        for point in points
    )
    return points, confirm_values(study, points)


def _write(run_dir: RunDir, plan: Plan, frontier: Frontier, values: np.ndarray) -> None:
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


def _choices(settings: SearchSettings) -> dict[str, str]:
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
    return {name: str(getattr(settings, name)) for name in sorted(names)}
