"""Searches for the plan of a run under original and repaired ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from sensitivity.config import CostName, formats_of, target_of
from sensitivity.errors import SensitivityError
from sensitivity.measure.raced import COSTLY_SAMPLES
from sensitivity.measure.ranking import estimate
from sensitivity.measure.scan import Scan, has_collapsed
from sensitivity.measure.study import Study
from sensitivity.planners.base import wants_cost
from sensitivity.planners.exhaustive import ExhaustivePlanner, check_number
from sensitivity.preflight.metric import impossible_findings
from sensitivity.quantizers.base import (
    QuantizedModel,
    Recalibratable,
    TakesFp8,
    form_of,
    name_in_words,
)
from sensitivity.records import (
    CostModel,
    Estimate,
    FrontierPoint,
    Plan,
    Range,
    Target,
    Unit,
    cost_of,
)
from sensitivity.reporting.number_formats import format_of
from sensitivity.rules.formats import FORMATS, refuse
from sensitivity.run_dir import QUANTIZED_RECORD
from sensitivity.runtimes.base import Runtime
from sensitivity.search import rerank
from sensitivity.search.choose import SearchOptions, choose_plan
from sensitivity.search.fp8 import fp8_ranges, slow_in_tensorrt
from sensitivity.search.frontier import (
    HOLDOUT_SAMPLES,
    LARGE_ON_HOLDOUT,
    Frontier,
    confirm_values,
    correction,
    measured_frontier,
)
from sensitivity.search.judge import told_from
from sensitivity.search.part import ConfirmPart, first_part, part_note
from sensitivity.search.wide import wide_ranges, with_plain_weights
from sensitivity.session import Session
from sensitivity.signals.base import Signal
from sensitivity.steps import lazy
from sensitivity.steps.fine_tune import with_tuning
from sensitivity.steps.plan_files import (
    SearchSettings,
    pays_for_borders,
    plan_targets,
    search_choices,
    still_recalibrated,
    write_plan,
    write_search,
)
from sensitivity.steps.recalibrate import FILE as RECALIBRATION
from sensitivity.steps.recalibrate import (
    Recalibration,
    is_costly,
    own_quantized,
    recalibration,
)
from sensitivity.steps.refit import refitted
from sensitivity.tasks.base import EvaluateTask, Task
from sensitivity.units.units import Pins, pins

if TYPE_CHECKING:
    from sensitivity.planners.base import Probe

OWN_RANGES = (
    "Other ranges of {} units were tried as well: the plan found under them leaves out {} and is "
    "not as good, so all units keep their original ranges."
)

MUCH_MORE = 4.0
"""Factor between two losses of INT8 beyond which the better ranges alone are searched under."""


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


def refuse_impossible(target: Target, float_value: float, task: Task | EvaluateTask) -> None:
    """Raise SensitivityError for an absolute target above the largest value of the metric.

    float_value: metric of the float model.
    """
    for finding in impossible_findings(target, float_value, task):
        raise SensitivityError(f"{finding.message} {finding.fix}")


def search_plan(
    session: Session, settings: SearchSettings, scanned: Scan, runtime: Runtime
) -> Plan:
    """Search for a plan and write plan.json, frontier.json and frontier.csv."""
    check_formats(settings, session.source)
    target = target_of(settings, session.task.full_scale)
    refuse_impossible(target, scanned.baselines["float"].value, session.task)
    fixed = pins(settings.skip, settings.keep, session.units)
    unseen = set(scanned.unjudged) - {*fixed.skip, *fixed.keep}
    # Leaving these out would cost time and gain nothing that is measured.
    fixed = replace(fixed, keep=(*fixed.keep, *sorted(unseen)))
    study = _study(session, settings, fixed)
    part = ConfirmPart(None) if _is_exact(session) else first_part(session.task, settings.planner)
    with session.measurer.only_first("confirm", part.batches):
        own = new = Recalibration("", (), scanned)
        if not settings.no_recalibrate:
            new = recalibration(session, scanned, target, fixed.skip, settings.fine_tune)
            new = with_tuning(session, new, target, fixed.skip, settings.fine_tune)
        with _cost_and_probe(session, settings, runtime) as (cost, probe):
            question = Question(study, settings.planner, target, fixed, cost, probe)
            # The first search decides on which part of `confirm` all sets are compared.
            search = partial(_attempt, session, question, first=new)
            attempts = [search(new)]
            plan = attempts[0].plan
            may_cost_less = cost and new.units and set(plan.outside) - set(fixed.skip)
            if may_cost_less and may_own_cost_less(session, plan):
                attempts.append(search(own))
            refit = None if probe else refitted(session, study, new, plan, tuple(fixed.skip))
            if refit is not None:
                attempts.append(search(refit))
            best = attempts[cheapest([attempt.plan for attempt in attempts], cost, probe)]
            if refit is not None and best.ranges is refit:
                session.run_dir.write(RECALIBRATION, refit)
        chosen = _finished_plan(session, attempts, best, cost)
        notes = filter(None, [part.note or part_note(chosen, session.measurer)])
    frontier = Frontier(
        best.points,
        search_choices(settings),
        cost,
        dict(best.wide),
        dict(study.fp8),
        told_from(session.task),
    )
    chosen = replace(chosen, notes=(*chosen.notes, *notes, *_anew(session, chosen)))
    write_search(session.run_dir, chosen, frontier, best.values)
    return write_plan(session.run_dir, chosen)


def _anew(session: Session, plan: Plan) -> list[str]:
    """Return the advice to quantize the float file anew if the plan leaves many layers of a Q/DQ
    file out, which another tool made."""
    is_foreign = (
        form_of(session.source) == "onnx" and not (session.run_dir.path / QUANTIZED_RECORD).exists()
    )
    return [ANEW] if is_foreign and len(plan.skip) > MANY * len(session.units) else []


MANY = 0.1
"""Fraction of the layers above which a file is worth quantizing in another way."""

ANEW = (
    "That many layers may be due to how the file was quantized. 'sensitivity run MODEL.onnx' with "
    "the float file that it was made of quantizes it by the rules of the runtime, with repairs "
    "that need float weights."
)


def may_own_cost_less(session: Session, plan: Plan) -> bool:
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
    if first.ranges.units and not used.units:
        notes.append(OWN_RANGES.format(len(first.ranges.units), len(first.plan.skip)))
    return replace(
        plan,
        metric=metric,
        recalibrated=still_recalibrated(used, plan),
        notes=tuple(notes),
        tuning=used.tuning,
    )


def _study(session: Session, settings: SearchSettings, fixed: Pins) -> Study:
    """Return the study of the session, with the formats that were asked for, for units that are up
    for choice.

    Raises SensitivityError if no unit can have FP8 and it was asked for.
    """
    asked = formats_of(settings)
    pinned = {*fixed.skip, *fixed.keep}
    source: Any = session.source
    free = [unit for unit in session.study.units if unit.name not in pinned]
    study = session.study
    if "int16" in asked:
        study = replace(study, wide=wide_ranges(source, free))
    if "fp8" in asked:
        study = replace(study, fp8=_fp8_of(settings, source, free))
    if settings.planner == ExhaustivePlanner.name:  # before it searches without other formats
        check_number(len(free), len(study.wide), len(study.fp8))
    return study


def _fp8_of(
    settings: SearchSettings, source: Any, free: Sequence[Unit]
) -> dict[str, tuple[Range, ...]]:
    """Return the FP8 ranges of the units that can have them, by unit.

    free: units that are up for choice.
    """
    found = fp8_ranges(source, free)
    if free and not found:
        raise SensitivityError(
            "Expected units on integer grids of 8 bits for --formats fp8, got "
            f"{format_of(source.quantizers)}; leave fp8 out."
        )
    if "tensorrt" in plan_targets(settings):
        slow = slow_in_tensorrt(source, free)
        found = {unit: ranges for unit, ranges in found.items() if unit not in slow}
    return found


def check_formats(settings: SearchSettings, source: QuantizedModel | None = None) -> None:
    """Raise SensitivityError if --formats asks for a format that the target or the model's
    quantizers cannot take.

    source: None if it is not open yet.
    """
    asked = [name for name in formats_of(settings) if name in FORMATS]
    for name in asked:
        for target in plan_targets(settings):
            refuse(name, target, f"--formats {name}")
    if source is None or not asked:
        return
    if not isinstance(source, Recalibratable):
        raise SensitivityError(
            f"Expected a model whose quantizers can take other ranges for --formats {asked[0]}, "
            f"got {name_in_words(source)}; leave {asked[0]} out, or scan its Q/DQ file."
        )
    if "fp8" in asked:
        _check_takes_fp8(source)


def _check_takes_fp8(source: QuantizedModel) -> None:
    """Raise SensitivityError for a model whose quantizers cannot take FP8."""
    if isinstance(source, TakesFp8):
        problem = source.no_fp8()
    else:
        problem = f"{name_in_words(source)}; leave fp8 out, or scan its Q/DQ file"
    if problem:
        raise SensitivityError(
            f"Expected a model whose quantizers can take FP8 for --formats fp8, got {problem}."
        )


def _corrected_drop(
    attempts: Sequence[Attempt], plan: Plan, cost: CostModel | None
) -> Estimate | None:
    """Return the drop of the plan on `confirm`, corrected for all sets that it was chosen among by
    their counted drops."""
    first, *others = attempts
    points = [point for attempt in attempts for point in attempt.points]
    # The first row of each attempt is float.
    values = np.concatenate([first.values, *(attempt.values[1:] for attempt in others)])
    by_count = plan.metric.chosen_by_count
    return correction(values, points, plan.names, plan.floor, cost, by_count=by_count)


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
    # A search does not build engines with other formats.
    has_formats = any(plans[at].format_ranges for at in met)
    costs = probe(sets) if probe and not has_formats else [cost_of(names, cost) for names in sets]
    return met[int(np.argmin(costs))]


def _attempt(
    session: Session, question: Question, ranges: Recalibration, *, first: Recalibration
) -> Attempt:
    """Search for a plan under these ranges.

    first: ranges of the first search, the only one that may use more of `confirm`.
    """
    units, wide = question.study.units, question.study.wide
    fitted_wide = {unit: wide[unit] for unit in ranges.fitted_wide}
    wide = with_plain_weights(wide, units, ranges.ranges) | fitted_wide
    question = replace(question, study=replace(question.study, wide=wide))
    with session.measurer.with_ranges(ranges.ranges):
        session.measurer.use_candidates(
            (*ranges.ranges, *chain.from_iterable(question.study.formats.values()))
        )
        plan = _choose(session, question, ranges.scan, may_grow=ranges is first)
        samples = LARGE_ON_HOLDOUT if session.has_large_samples else HOLDOUT_SAMPLES
        points, values = _frontier(question.study, plan, question.cost, samples)
    return Attempt(ranges, wide, plan, points, values)


def _int8_held_out(session: Session, plan: Plan) -> Estimate | None:
    """Return the metric of everything in INT8 as calibrated, on `holdout`, so that the reader sees
    what the plan gains there.

    Returns None if this would take a whole evaluation or many samples, or if it is noise, which
    `confirm` has shown.
    """
    is_cheap = session.has_samples and plan.metric.holdout.n <= HOLDOUT_SAMPLES
    if not is_cheap or has_collapsed(plan.metric.float.value, own_quantized(session).value):
        return None
    measurer = session.measurer
    (scores,) = measurer.scores(
        [session.study.baselines["quantized"]], "holdout", "plan: INT8 on holdout"
    )
    return estimate(scores, measurer.task.aggregate)


def _choose(session: Session, question: Question, scanned: Scan, *, may_grow: bool) -> Plan:
    signal, alone = _signal(session, scanned)
    costly = is_costly(session, scanned)
    if session.measurer.ranges and not costly:
        # The scan's own signal belongs to the original ranges. It still tells which units of large
        # samples to try.
        alone = None
    options = SearchOptions(
        question.planner,
        question.cost,
        question.probe,
        signal,
        alone,
        session.ends(),
        may_grow,
        COSTLY_SAMPLES if costly else rerank.SIGNAL_SAMPLES,
    )
    return choose_plan(question.study, scanned, question.target, options, question.fixed)


def _cost_and_probe(
    session: Session, settings: SearchSettings, runtime: Runtime
) -> AbstractContextManager[tuple[CostModel | None, Probe | None]]:
    """Return the cost model and the probe; (None, None) for a planner that counts layers, unless a
    cost was asked for, or 16 bits for a target on which they spread to other layers: these have no
    times here."""
    one_type = pays_for_borders(settings)
    usual: CostName = "macs" if form_of(session.source) == "onnx" else "table"
    if one_type:
        usual = "operations"
    elif settings.cost is None and not wants_cost(settings.planner):
        return nullcontext((None, None))
    return lazy.cost_model.cost_and_probe(
        session, settings.cost or usual, runtime, settings.threads, one_type=one_type
    )


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
    study: Study, plan: Plan, cost: CostModel | None, samples: int
) -> tuple[tuple[FrontierPoint, ...], np.ndarray]:
    points = measured_frontier(study, plan, cost, samples)
    points = tuple(
        replace(point, measured_ms=plan.measured_ms) if point.names == plan.names else point
        for point in points
    )
    return points, confirm_values(study, points)
