"""Ranks the units of an open task, and writes run.json, scan.json and scan.csv."""

from __future__ import annotations

from dataclasses import replace

from sensitivity.commands import settings_as_text, starting_command
from sensitivity.config import IN_PYTHON, RunSettings, ScanChoices, ScanSettings
from sensitivity.errors import ModelError
from sensitivity.measure.raced import (
    COLLAPSED_BUDGET,
    COSTLY_BUDGET,
    COSTLY_COLLAPSED_BUDGET,
    COSTLY_SAMPLES,
    EXACT_IF_COLLAPSED,
    EXACT_UP_TO,
    FEW_SAMPLES,
    SIGNAL_SAMPLES,
    Budget,
    raced_scan,
)
from sensitivity.measure.scan import Scan, usual_mode
from sensitivity.measure.scan import scan as measure_scan
from sensitivity.measure.sharing import sharing_cost
from sensitivity.measure.unjudged import mark_unjudged
from sensitivity.preflight.metric import measured_findings, without_at_chance
from sensitivity.records import SPLITS, Mode
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.formats import listing
from sensitivity.reporting.tables import scan_table
from sensitivity.run_dir import RunInfo
from sensitivity.seeds import current_seed
from sensitivity.session import Session
from sensitivity.steps import lazy
from sensitivity.steps.recorded import recorded
from sensitivity.tasks.load import split_reference
from sensitivity.timing.environment import environment

NOT_JUDGED = (
    "{} of {} units reach no output that {} reads, such as masks, key points or an auxiliary head: "
    "{}. What INT8 does to them is not judged, and no plan leaves them out. Score those outputs "
    "too, or keep them out of INT8 with --skip."
)


def scan_session(session: Session, command: str, settings: ScanSettings | RunSettings) -> Scan:
    """Rank the units of an open task and write what the scan found into the run directory.

    command: how to repeat the scan, as run.json records it.
    Raises CheckError if the measurements contradict the task, unless `settings.force` is set.
    """
    run_dir = session.run_dir
    run_dir.write("run.json", _run_info(session, settings))
    with recorded(session.run_dir, "scan", command, session):
        mode = settings.mode or usual_mode(session.study)
        run_dir.write("run.json", replace(run_dir.info(), mode=mode))
        result = measured_scan(session, settings, mode)
        if session.has_samples:
            result = mark_unjudged(session.study, result)
        result = replace(result, sharing=sharing_cost(session.study, session.own_ranges))
        if result.unjudged:
            _warn_unjudged(session, result.unjudged)
        run_dir.write("scan.json", result)
        write_csv(scan_table(result.effects, session.units), run_dir.path / "scan.csv")
        _write_graph(session)
        seen = lazy.distributions.distributions(session)
        if seen is not None:
            run_dir.write("distributions.json", seen)
    doubts = tuple(measured_findings(session))
    lazy.preflight.refuse_errors(doubts, force=settings.force)
    if doubts:
        info = run_dir.info()
        known = without_at_chance(info.warnings, session.task.metric)
        info = replace(info, warnings=known)
        warnings = lazy.preflight.warnings_of(doubts)
        run_dir.write("run.json", info.with_warnings(warnings))
    return result


def measured_scan(session: Session, settings: ScanChoices, mode: Mode) -> Scan:
    """Run the exact scan if it is asked for or affordable, else a race with units ordered by a
    cheap signal.

    If everything in INT8 has collapsed, a plan does not follow the metric of single units, and less
    is spent on it.
    """
    collapsed = settings.mode is None and mode == "enable"
    wants_exact = settings.exact or settings.signal == "metric"
    budget = Budget(settings.samples, settings.time_budget)
    has_no_budget = budget == Budget(None, None)
    affordable = min(session.affordable, EXACT_IF_COLLAPSED if collapsed else EXACT_UP_TO)
    if wants_exact or (has_no_budget and session.exact_samples() <= affordable):
        return measure_scan(session.study, mode)
    samples, usual_budget = SIGNAL_SAMPLES, Budget()
    if session.has_large_samples:
        samples, usual_budget = COSTLY_SAMPLES, COSTLY_BUDGET
    if collapsed:
        is_costly = session.has_large_samples
        samples = FEW_SAMPLES
        usual_budget = COSTLY_COLLAPSED_BUDGET if is_costly else COLLAPSED_BUDGET
    signal = _signal_of_units(session, settings, samples)
    if signal is None:
        return measure_scan(session.study, mode)
    return raced_scan(session.study, mode, signal, usual_budget if has_no_budget else budget)


def _signal_of_units(
    session: Session, settings: ScanChoices, samples: int
) -> dict[str, float] | None:
    """Return unit -> signal, or None if outputs cannot be compared and the exact scan is
    affordable."""
    try:
        return session.signal(settings.signal or session.usual_signal, samples)
    except ModelError:
        if settings.signal is not None or session.exact_samples() > session.affordable:
            raise
        return None


def _warn_unjudged(session: Session, names: tuple[str, ...]) -> None:
    warning = NOT_JUDGED.format(len(names), len(session.units), session.task.metric, listing(names))
    session.run_dir.write("run.json", session.run_dir.info().with_warnings([warning]))


def _write_graph(session: Session) -> None:
    """Write graph.json, which layers pass tensors to each other, if that is known."""
    traced = session.graph.traced if session.graph else None
    graph = lazy.graph.model_graph(session.source, traced)
    if graph is not None:
        session.run_dir.write("graph.json", graph)


def _run_info(session: Session, settings: ScanSettings | RunSettings) -> RunInfo:
    earlier = session.run_dir.read_if_there("run.json", RunInfo)
    task, near = IN_PYTHON, ""
    if isinstance(session.user_task, str):
        task, near = session.run_dir.place_of(*split_reference(session.user_task))
    return RunInfo(
        simulator=earlier.simulator if earlier else None,
        samples=earlier.samples if earlier else 0,
        commands=earlier.commands if earlier else {},
        seconds=earlier.seconds if earlier else {},
        task=task,
        near=near,
        began=starting_command(settings),
        mode=settings.mode or "disable",
        metric=session.task.metric,
        full_scale=session.task.full_scale,
        source=session.source.source,
        quantizers=session.source.quantizers,
        units=session.units,
        splits={split: len(session.task.data[split]) for split in SPLITS},
        settings=settings_as_text(settings),
        environment=environment(),
        warnings=session.warnings,
        scales=session.scales,
        residuals=session.residuals,
        seed=current_seed(),
    )
