"""Each verb as one function: settings in, records out, files in the run directory.

    from sensitivity import api
    from sensitivity.config import RunSettings

    plan = api.run(RunSettings(task="my_task.py:task", max_drop="1pt"))

The command line calls these functions, and so does `sensitivity.verbs`, the interface for Python. A
task that was made in a program is passed as `task`; the settings then hold `config.IN_PYTHON` in
its place.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sensitivity.config import (
    IN_PYTHON,
    OF_ONNX,
    QUANTIZING,
    TFLITE,
    BenchChoices,
    BenchSettings,
    CheckSettings,
    CompareSettings,
    ExportSettings,
    LogChoices,
    PlanSettings,
    ReportSettings,
    RunSettings,
    ScanChoices,
    ScanSettings,
    TaskChoices,
    UnitChoices,
    began,
    check_numbers,
    command_line,
    is_model_file,
    python_call,
    refuse_needless,
    shown,
    target_of,
)
from sensitivity.errors import (
    ExportError,
    JournalMismatch,
    LogError,
    ModelError,
    RunDirError,
    SensitivityError,
)
from sensitivity.exporters.facts import facts
from sensitivity.exporters.verification import Verification
from sensitivity.journal.journal import refuse_used
from sensitivity.lock import locked
from sensitivity.loggers.base import Logger
from sensitivity.measure.detail import detection_detail
from sensitivity.measure.progress import Progress, Stopwatch, silent
from sensitivity.measure.raced import (
    COLLAPSED_BUDGET,
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
from sensitivity.planners.base import wants_cost
from sensitivity.preflight.metric import measured_findings
from sensitivity.quantizers.base import form_of
from sensitivity.records import (
    SPLITS,
    BenchResult,
    Distributions,
    Finding,
    Mode,
    ModelGraph,
    Plan,
    Recalibrated,
    Verdict,
)
from sensitivity.registry import load
from sensitivity.reporting.compare import ComparedRun
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.entry import entry_of
from sensitivity.reporting.formats import MetricFormat, listing
from sensitivity.reporting.number_formats import format_of
from sensitivity.reporting.outcome import verdict_of
from sensitivity.reporting.summaries import summary_of
from sensitivity.reporting.tables import detection_table, scan_table
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.seeds import current_seed, seeded
from sensitivity.session import Session, open_session
from sensitivity.steps import later
from sensitivity.steps.compare import folder_data, labels_of, places_of
from sensitivity.steps.named_plans import check_name
from sensitivity.steps.plan import check_formats, search_plan
from sensitivity.steps.plan_files import choices_of
from sensitivity.steps.recalibrate import FILE as RECALIBRATION
from sensitivity.steps.recalibrate import in_force
from sensitivity.steps.replan import replan
from sensitivity.tasks.detection_detail import DetectionDetail
from sensitivity.tasks.load import Given, split_reference
from sensitivity.timing.environment import environment
from sensitivity.units.units import pins

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
Choices = TypeVar("Choices", bound=TaskChoices)

NOT_JUDGED = (
    "{} of {} units reach no output that {} reads, such as masks, key points or an auxiliary head: "
    "{}. What INT8 does to them is not judged, and no plan leaves them out. Score those outputs "
    "too, or keep them out of INT8 with --skip."
)
LOGGED = ("report.html", "plan.json", "bench.csv")
"""Files of a plan that an experiment tracker keeps, in addition to the ranking in scan.csv."""
STALE = (
    "The exported files and their latencies are of an earlier plan and are not shown; run "
    "export and bench again."
)


def _one_at_a_time(verb: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Let the verb hold the lock of its run directory and use the seed of the run.

    The run directory comes from the settings, the first argument. Raises RunDirError if another
    command holds the lock.
    """

    @wraps(verb)
    def alone(*args: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        settings: Any = args[0]
        directory = _directory(settings)
        with locked(directory), seeded(_seed(settings, directory)):
            return verb(*args, **keywords)

    return alone


def _directory(settings: Any) -> Path:
    """Return the directory that a verb writes to.

    Raises RunDirError if the verb continues a run and there is none.
    """
    if isinstance(settings, RunSettings | ScanSettings):
        return out_of(settings)
    RunDir(settings.directory).info()
    return Path(settings.directory)


def _seed(settings: Any, directory: Path) -> int:
    """Return the seed of the run that is continued, else the one asked for, else 0.

    Raises JournalMismatch if the two differ.
    """
    wanted = getattr(settings, "seed", None)
    goes_on = getattr(settings, "resume", True)
    earlier = RunDir(directory).read_if_there("run.json", RunInfo) if goes_on else None
    if earlier is None:
        return wanted or 0
    if wanted not in (None, earlier.seed):
        raise JournalMismatch(
            f"Expected --seed {earlier.seed}, with which the run in {directory} has drawn its "
            f"data, got {wanted}; leave it out to go on, or choose another --out."
        )
    return earlier.seed


@_one_at_a_time
def run(settings: RunSettings, progress: Progress = silent, task: Given | None = None) -> Plan:
    """Scan, plan, export, bench and report. The returned plan says whether the target was met."""
    command = _command("run", settings, in_python=settings.task == IN_PYTHON)
    check_numbers(settings)
    # Report a mistake in the settings of the last step before the long work begins.
    check_formats(settings)
    later.bench.runtime_of(settings.runtime)
    target_of(settings, full_scale=1.0)
    _check_accuracy(settings)
    _logger(settings)
    later.forecast.begin(progress, "check")
    with _session(settings, progress, task) as session:
        pins(settings.skip, settings.keep, session.units)
        check_formats(settings, session.source)
        session, exportable = _checked(session, settings)
        size, exact = later.forecast.size_of(session), session.exact_samples()
        begins = partial(
            later.forecast.begin,
            progress,
            steps=later.forecast.STEPS if exportable else later.forecast.WITHOUT_FILES,
        )
        if not exportable and (settings.cost or wants_cost(settings.planner)):
            later.check_export.check_export(session)  # says why there are no files to time
        begins("scan", later.forecast.amounts(size, exact, settings))
        scanned = _scan(session, command, settings)
        misses = later.forecast.int8_misses(scanned, settings, session.task.full_scale)
        expected = later.forecast.amounts(replace(size, misses=misses), exact, settings)
        begins("plan", expected)
        chosen = _plan(session, settings, command, scanned)
        if exportable:
            begins("export", expected)
            with _noted(session.run_dir, "export", command, session):
                later.export.export_plan(
                    session,
                    chosen,
                    later.export.targets_of(settings.runtime),
                    forgiving=True,
                    judged_later=not settings.no_accuracy,
                )
        held = (
            None
            if settings.no_accuracy or not exportable
            else later.bench.held_out(session, chosen)
        )
    run_dir = session.run_dir
    del session  # with the values that its simulator keeps
    if exportable:
        begins("bench", expected)
        _bench(run_dir, settings, command, progress, held)
    begins("report", expected)
    info = run_dir.info()
    run_dir.write("run.json", replace(info, commands=info.commands | {"run": command}))
    report(ReportSettings(directory=run_dir.path, log=settings.log))
    return chosen


def forecast(
    settings: RunSettings | ScanSettings, task: Given | None = None
) -> later.dry_run.Forecast:
    """Estimate from one timed batch what a run or a scan would take. Nothing is written into its
    directory."""
    watch = Stopwatch()
    check_numbers(settings)
    if isinstance(settings, RunSettings):
        target_of(settings, full_scale=1.0)
    seed = _seed(settings, out_of(settings))
    with tempfile.TemporaryDirectory() as folder, seeded(seed):
        out = Path(folder)
        given = task or _reference(settings, out)
        memory = _memory(settings)
        with open_session(given, out, resume=False, choices=settings, memory=memory) as session:
            return later.dry_run.forecast_of(session, settings, watch)


@_one_at_a_time
def scan(settings: ScanSettings, progress: Progress = silent, task: Given | None = None) -> Scan:
    """Rank the units of the task's model and write run.json, scan.json and scan.csv."""
    check_numbers(settings)
    command = _command("scan", settings, in_python=settings.task == IN_PYTHON)
    with _session(settings, progress, task) as session:
        return _scan(_checked(session, settings)[0], command, settings)


def check(
    settings: CheckSettings, progress: Progress = silent, task: Given | None = None
) -> tuple[Finding, ...]:
    """Return what speaks against scanning, errors first.

    The settings name a task, or a Q/DQ file with or without data. If no session can be opened, the
    reason is returned as a finding too, not raised.
    """
    try:
        return _findings(settings, progress, task)
    except SensitivityError as error:
        return (Finding("unusable", "error", "", str(error), ""),)


def _findings(
    settings: CheckSettings, progress: Progress, task: Given | None
) -> tuple[Finding, ...]:
    begins = partial(later.forecast.begin, progress, steps=later.forecast.CHECKING)
    begins("open")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        notes: tuple[Finding, ...] = ()
        if is_model_file(settings.task):
            settings = _in_onnx(settings, out)
            notes = later.quantize_findings.float_findings(settings)
            if settings.data is None:
                begins("check")
                return notes or later.check_file.check_file(
                    Path(settings.task), settings.float_model
                )
        given = task or _reference(settings, out, progress)
        with open_session(
            given, out, resume=False, choices=UnitChoices(), progress=progress
        ) as session:
            begins("check")
            return (*later.preflight.check(session), *notes)


@_one_at_a_time
def plan(settings: PlanSettings, progress: Progress = silent, task: Given | None = None) -> Plan:
    """Choose a skip-set for the run in `settings.directory` and write plan.json.

    task: the run's task; needed only if it was made in Python and the answer has to be searched
        for.
    """
    check_numbers(settings)
    run_dir = RunDir(settings.directory, settings.name)
    info, scanned = run_dir.info(), run_dir.read("scan.json", Scan)
    check_name(run_dir, target_of(settings, info.full_scale))
    pins(settings.skip, settings.keep, info.units)
    check_formats(settings)
    command = _command("plan", settings, in_python=info.in_python)
    if not settings.search:
        with _noted(run_dir, "plan", command):
            answered = replan(run_dir, settings, task)
        if answered is not None:
            return answered
    given = task or run_dir.reference()
    with open_session(
        given, settings.directory, resume=True, workers=settings, progress=progress
    ) as session:
        session = replace(session, run_dir=run_dir)
        return _plan(session, settings, command, scanned)


@_one_at_a_time
def export(
    settings: ExportSettings, progress: Progress = silent, task: Given | None = None
) -> Verification:
    """Write and verify model.float.onnx, model.int8.onnx and model.partial.onnx from plan.json.

    With `settings.config`, also write the settings for that tool; files that already exist for this
    plan are then not written again.

    task: the run's task; needed if it was made in Python.
    """
    run_dir = RunDir(settings.directory, settings.name)
    if settings.config is None:
        return _export_files(run_dir, settings, progress, task)
    writer = load("configs", settings.config)()
    _export_missing(run_dir, settings, progress, task)
    later.config.write_tool_config(run_dir, writer)
    return run_dir.read("export.json", Verification)


@_one_at_a_time
def write_config(
    settings: ExportSettings, progress: Progress = silent, task: Given | None = None
) -> later.config.WrittenConfig:
    """Write the plan as the settings of the tool `settings.config`, which must be given.

    Exports first if `for_` is given, or if the tool reads the exported files and those of this plan
    do not exist yet.

    task: as for `export`.
    """
    assert settings.config is not None
    run_dir = RunDir(settings.directory, settings.name)
    writer = load("configs", settings.config)()
    if settings.for_ or writer.reads == "operations":
        _export_missing(run_dir, settings, progress, task)
    return later.config.write_tool_config(run_dir, writer)


def _export_missing(
    run_dir: RunDir, settings: ExportSettings, progress: Progress, task: Given | None
) -> None:
    """Export if `for_` is given, or if the files do not exist or belong to another plan."""
    if settings.for_ or not later.config.has_files_of(run_dir, run_dir.plan()):
        _export_files(run_dir, replace(settings, config=None), progress, task)


def _export_files(
    run_dir: RunDir, settings: ExportSettings, progress: Progress, task: Given | None
) -> Verification:
    info, chosen = run_dir.info(), run_dir.plan()
    if settings.for_ and form_of(load("quantizers", info.source)) == "onnx":
        raise ExportError(
            "Expected no --for with a Q/DQ ONNX file, whose exports keep the form that its "
            f"toolkit gave it, got {settings.for_}; export without it and let {settings.for_} read "
            "these files."
        )
    command = _command("export", settings, in_python=info.in_python)
    given = task or run_dir.reference()
    with open_session(given, settings.directory, resume=True, progress=progress) as session:
        session = replace(session, run_dir=run_dir)
        with _noted(session.run_dir, "export", command, session):
            return later.export.export_plan(session, chosen, later.export.targets_of(settings.for_))


@_one_at_a_time
def bench(
    settings: BenchSettings, progress: Progress = silent, task: Given | None = None
) -> BenchResult:
    """Time the exported files and write bench.json and bench.csv.

    task: the run's task; needed only for --accuracy, and only if it was made in Python. Everything
        else needs neither the task nor its framework.
    """
    check_numbers(settings)
    _check_accuracy(settings)
    run_dir = RunDir(settings.directory, settings.name)
    command = _command("bench", settings, in_python=run_dir.info().in_python)
    return _bench(run_dir, settings, command, progress, task)


def report(settings: ReportSettings) -> Path:
    """Write report.html, the CSV files and the figures from the contents of the run directory.

    Also logs them if `settings.log` names a tracker; raises LogError if the tracker fails.
    """
    run_dir = RunDir(settings.directory, settings.name)
    logger, data = _logger(settings), _reported(run_dir)
    later.html.write_report(data, run_dir.folder)
    if logger is not None:
        _log(logger, data, run_dir)
    return run_dir.file("report.html")


def _logger(settings: LogChoices) -> Logger | None:
    """Return the tracker that the settings name.

    Raises MissingPackage if its client is not installed, before the long work begins.
    """
    if settings.log is None:
        return None
    logger: Logger = load("loggers", settings.log)()
    return logger


def _log(logger: Logger, data: ReportData, run_dir: RunDir) -> None:
    files = [run_dir.path / "scan.csv", *map(run_dir.file, LOGGED)]
    try:
        logger.log(entry_of(data, files, run_dir.folder))
    except Exception as error:  # the client may raise anything
        reason = " ".join(str(error).split())[:200]
        again = command_line(
            "report", ReportSettings(directory=run_dir.path, name=run_dir.name, log=logger.name)
        )
        raise LogError(
            f"Expected {logger.name} to take the run, got {type(error).__name__}: {reason}; all "
            f"else is done: log it again with: {again}"
        ) from error


def summary(settings: ReportSettings) -> str:
    """Return the report as text in `settings.format`, which must not be html. Nothing is
    written."""
    _refuse_log(settings)
    data = _reported(RunDir(settings.directory, settings.name))
    return summary_of(data, settings.format)


def described(settings: ReportSettings) -> Path:
    """Write model.netron.onnx: the plan's file, with what is known of each layer in the description
    of its node."""
    _refuse_log(settings)
    return later.netron.described_file(RunDir(settings.directory, settings.name))


def _refuse_log(settings: ReportSettings) -> None:
    if settings.log is not None:
        raise SensitivityError(
            f"Expected --log with the files that --format html writes, got --format "
            f"{settings.format}; leave one of them out."
        )


def _reported(run_dir: RunDir) -> ReportData:
    if run_dir.name is not None:
        run_dir.plan()  # raises for an unknown name; a report without any plan is allowed
    return report_data(run_dir.path, run_dir.name)


def out_of(settings: ScanSettings | RunSettings) -> Path:
    """Return the run directory: as given, or runs/<name of the file>, or runs/<name of its folder>
    for a file called task.py."""
    if settings.out is not None:
        return settings.out
    if settings.task == IN_PYTHON:
        raise SensitivityError(
            "Expected a run directory for a task made in Python, got none; give one, as in "
            "out='runs/my_model'."
        )
    file = Path(settings.task.partition(":")[0])
    return Path("runs") / (file.resolve().parent.name if file.stem == "task" else file.stem)


def _command(verb: str, settings: Any, *, in_python: bool) -> str:
    """Return how to repeat this: a command, or a Python call for a task that is in no file."""
    return python_call(verb, settings) if in_python else command_line(verb, settings)


def _session(
    settings: ScanSettings | RunSettings, progress: Progress, task: Given | None
) -> AbstractContextManager[Session]:
    out = out_of(settings)
    refuse_used(RunDir(out).journal, settings.resume)  # before a task file is written there
    if task is not None:
        refuse_needless(settings, OF_ONNX, "a task that is no ONNX file")
    given = task or _reference(settings, out, progress)
    return open_session(
        given,
        out,
        resume=settings.resume,
        choices=settings,
        workers=settings,
        memory=_memory(settings),
        progress=progress,
    )


def _memory(settings: ScanChoices) -> int | None:
    """Return the bytes that the simulator may hold; None for the default."""
    return None if settings.memory is None else settings.memory * 2**20


def _checked(session: Session, settings: ScanSettings | RunSettings) -> tuple[Session, bool]:
    """Check the session. Return it with the findings among its warnings, and whether its model can
    be exported.

    Raises CheckError for an error without --force.
    """
    target = (
        target_of(settings, session.task.full_scale) if isinstance(settings, RunSettings) else None
    )
    findings = later.preflight.check(session, target)
    later.preflight.refuse_errors(findings, force=settings.force)
    exportable = all(finding.code != "export-impossible" for finding in findings)
    return replace(
        session, warnings=(*session.warnings, *later.preflight.warnings_of(findings))
    ), exportable


def _reference(settings: TaskChoices, out: Path, progress: Progress = silent) -> str:
    """Return the reference of the task: as given, or of the task file written into the run
    directory for an ONNX or a .tflite file.

    progress: is told how far the calibration of a float file is.
    """
    if not is_model_file(settings.task):
        refuse_needless(settings, OF_ONNX, "a task that is no ONNX file")
        return settings.task
    later.onnx_task.data_of(settings)
    settings = _in_onnx(settings, out)
    if later.quantize_prepare.is_float(Path(settings.task)):
        made = later.quantize_file.quantized_file(settings, out, progress)
        return later.onnx_task.written_task(settings, out, made)
    refuse_needless(settings, QUANTIZING, "a Q/DQ file, which is calibrated already")
    return later.onnx_task.written_task(settings, out)


def _in_onnx(settings: Choices, out: Path) -> Choices:
    """Return the settings with .tflite files replaced by their ONNX versions, written into the run
    directory."""
    file, float_model, folder = Path(settings.task), settings.float_model, out / "tflite"
    if file.suffix == TFLITE:
        settings = replace(settings, task=str(later.tflite.onnx_file(file, folder)))
    if float_model is not None and float_model.suffix == TFLITE:
        made = later.tflite.onnx_file(float_model, folder / "float")
        settings = replace(settings, float_model=made)
    return settings


def _scan(session: Session, command: str, settings: ScanSettings | RunSettings) -> Scan:
    run_dir = session.run_dir
    run_dir.write("run.json", _info(session, settings))
    with _noted(session.run_dir, "scan", command, session):
        mode = settings.mode or usual_mode(session.study)
        run_dir.write("run.json", replace(run_dir.info(), mode=mode))
        result = _measured(session, settings, mode)
        if session.has_samples:
            result = mark_unjudged(session.study, result)
        result = replace(result, sharing=sharing_cost(session.study, session.own_ranges))
        if result.unjudged:
            _warn_unjudged(session, result.unjudged)
        run_dir.write("scan.json", result)
        write_csv(scan_table(result.effects, session.units), run_dir.path / "scan.csv")
        _write_graph(session)
        seen = later.distributions.distributions(session)
        if seen is not None:
            run_dir.write("distributions.json", seen)
    doubts = tuple(measured_findings(session))
    later.preflight.refuse_errors(doubts, force=settings.force)
    if doubts:
        info = run_dir.info()
        warnings = dict.fromkeys((*info.warnings, *later.preflight.warnings_of(doubts)))
        run_dir.write("run.json", replace(info, warnings=tuple(warnings)))
    return result


def _write_graph(session: Session) -> None:
    """Write graph.json, which layers pass tensors to each other, if that is known."""
    traced = session.graph.traced if session.graph else None
    graph = later.graph.model_graph(session.source, traced)
    if graph is not None:
        session.run_dir.write("graph.json", graph)


def _warn_unjudged(session: Session, names: tuple[str, ...]) -> None:
    info = session.run_dir.info()
    warning = NOT_JUDGED.format(len(names), len(session.units), session.task.metric, listing(names))
    session.run_dir.write(
        "run.json", replace(info, warnings=tuple(dict.fromkeys((*info.warnings, warning))))
    )


def _measured(session: Session, settings: ScanChoices, mode: Mode) -> Scan:
    """Run the exact scan if it is asked for or affordable, else a race with units ordered by a
    cheap signal.

    If everything in INT8 has collapsed, a plan does not follow the metric of single units, and less
    is spent on it.
    """
    collapsed = settings.mode is None and mode == "enable"
    wants_exact = settings.exact or settings.signal == "metric"
    budget = Budget(settings.samples, settings.time_budget)
    has_no_budget = budget == Budget(None, None)
    affordable = EXACT_IF_COLLAPSED if collapsed else EXACT_UP_TO
    if wants_exact or (has_no_budget and session.exact_samples() <= affordable):
        return measure_scan(session.study, mode)
    signal = _signal_of_units(session, settings, FEW_SAMPLES if collapsed else SIGNAL_SAMPLES)
    if signal is None:
        return measure_scan(session.study, mode)
    if has_no_budget:
        budget = COLLAPSED_BUDGET if collapsed else Budget()
    return raced_scan(session.study, mode, signal, budget)


def _signal_of_units(
    session: Session, settings: ScanChoices, samples: int
) -> dict[str, float] | None:
    """Return unit -> signal, or None if outputs cannot be compared and the exact scan is
    affordable."""
    try:
        return session.signal(settings.signal or session.usual_signal, samples)
    except ModelError:
        if settings.signal is not None or session.exact_samples() > EXACT_UP_TO:
            raise
        return None


def _plan(
    session: Session, settings: RunSettings | PlanSettings, command: str, scanned: Scan
) -> Plan:
    with _noted(session.run_dir, "plan", command, session):
        chosen = search_plan(session, settings, scanned, later.bench.runtime_of(settings.runtime))
        detail = detection_detail(session.study, chosen)
        if detail:
            session.run_dir.write("detection.json", detail)
            write_csv(detection_table(detail), session.run_dir.file("detection.csv"))
    return chosen


def _check_accuracy(settings: BenchChoices) -> None:
    if settings.accuracy and settings.no_accuracy:
        raise SensitivityError(
            "Expected one of --accuracy and --no-accuracy, got both; leave one out."
        )


def _bench(
    run_dir: RunDir,
    settings: BenchChoices,
    command: str,
    progress: Progress,
    held: later.bench.HeldOut | Given | None = None,
) -> BenchResult:
    with _noted(run_dir, "bench", command):
        return later.bench.bench_run(run_dir, settings, progress, held)


def _info(session: Session, settings: ScanSettings | RunSettings) -> RunInfo:
    earlier = session.run_dir.read_if_there("run.json", RunInfo)
    task, near = IN_PYTHON, ""
    if isinstance(session.given, str):
        task, near = session.run_dir.place_of(*split_reference(session.given))
    return RunInfo(
        simulator=earlier.simulator if earlier else None,
        samples=earlier.samples if earlier else 0,
        commands=earlier.commands if earlier else {},
        seconds=earlier.seconds if earlier else {},
        task=task,
        near=near,
        began=began(settings),
        mode=settings.mode or "disable",
        metric=session.task.metric,
        full_scale=session.task.full_scale,
        source=session.source.source,
        quantizers=session.source.quantizers,
        units=session.units,
        splits={split: len(session.task.data[split]) for split in SPLITS},
        settings=shown(settings),
        environment=environment(),
        warnings=session.warnings,
        scales=session.scales,
        residuals=session.residuals,
        seed=current_seed(),
    )


@contextmanager
def _noted(
    run_dir: RunDir, verb: str, command: str, session: Session | None = None
) -> Iterator[None]:
    """Note the command, time and samples of a verb in run.json, unless it raises."""
    run_dir.info()  # raises for a folder without a run, before the work
    start = time.monotonic()
    before = session.measurer.samples if session else 0
    yield
    info = run_dir.info()
    warnings = session.warnings if session else ()
    info = replace(
        info,
        warnings=tuple(dict.fromkeys((*info.warnings, *warnings))),
        commands=info.commands | {run_dir.step(verb): command},
        seconds=info.seconds | {run_dir.step(verb): round(time.monotonic() - start, 3)},
    )
    if session and (simulator := session.measurer.simulator_used()):
        spent = session.measurer.samples - before
        info = replace(
            info,
            samples=info.samples + spent,
            simulator={"name": simulator.name, "reason": simulator.reason},
            warnings=tuple(dict.fromkeys((*info.warnings, *simulator.warnings))),
        )
    run_dir.write("run.json", info)


def report_data(directory: Path, name: str | None = None) -> ReportData:
    """Return what the report of a run directory shows of the steps done in it.

    name: name of the plan; None for the one in plan.json.
    Raises RunDirError.
    """
    run_dir = RunDir(directory, name)
    info = _seen_by(run_dir)
    chosen = run_dir.read_if_there("plan.json", Plan)
    verified = run_dir.read_if_there("export.json", Verification)
    timed = run_dir.read_if_there("bench.json", BenchResult)
    unfinished = run_dir.unfinished()
    is_stale = _is_stale(chosen, verified, timed)
    if is_stale:
        verified = timed = None
    if chosen:
        metric = MetricFormat(info.metric, info.full_scale)
        chosen = replace(chosen, verdict=verdict_of(chosen, timed, metric))
    scanned = run_dir.read_if_there("scan.json", Scan) or Scan(info.mode, {}, ())
    bench = timed or BenchResult((), (), info.environment, {}, ())
    warnings = [*info.warnings]
    if is_stale:
        warnings.append(STALE)
    if unfinished:
        warnings.append(unfinished)
    return ReportData(
        title=_title(run_dir),
        metric=info.metric,
        full_scale=info.full_scale,
        mode=info.mode,
        command="\n".join(dict.fromkeys(info.commands.values())),
        settings=info.settings | _spent(info),
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
        go_on=_goes_on(run_dir),
        distributions=run_dir.read_if_there("distributions.json", Distributions),
    )


def _goes_on(run_dir: RunDir) -> str:
    """Return the command that continues the scan, with a placeholder if its task no longer
    exists."""
    try:
        return run_dir.go_on()
    except RunDirError:
        return f"sensitivity scan TASK --out {shlex.quote(str(run_dir.path))} --resume"


def _seen_by(run_dir: RunDir) -> RunInfo:
    """Return the head of the run without the verbs of its other plans."""
    info = run_dir.info()
    own = {run_dir.step(verb) for verb in ("plan", "export", "bench")} | {"run", "scan"}
    return replace(
        info,
        commands={step: command for step, command in info.commands.items() if step in own},
        seconds={step: seconds for step, seconds in info.seconds.items() if step in own},
    )


def _title(run_dir: RunDir) -> str:
    plan = "" if run_dir.name is None else f", plan {run_dir.name},"
    return f"{run_dir.path.resolve().name}{plan} in INT8"


def compare(settings: CompareSettings) -> tuple[ComparedRun, ...]:
    """Read the runs or plans that `settings` names, and write compare.html, compare.csv and
    compare_layers.csv into `settings.out` if it is given.

    Raises RunDirError for fewer than two plans, for one given twice, and for one that does not
    exist.
    """
    return compare_plans(places_of(settings), settings.out)


def compare_plans(places: tuple[RunDir, ...], out: Path | None) -> tuple[ComparedRun, ...]:
    """Compare these plans, as `compare` does."""
    runs = tuple(map(_compared, places, labels_of(places)))
    if out is not None:
        later.compare_page.write_comparison(runs, out)
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


def _spent(info: RunInfo) -> dict[str, str]:
    """Return what the measurements cost, for the report."""
    seconds = ", ".join(f"{verb} {value:.1f} s" for verb, value in info.seconds.items())
    spent = {"samples forwarded": str(info.samples), "time": seconds}
    if info.simulator:
        name, reason = info.simulator["name"], info.simulator["reason"]
        spent["simulator"] = f"{name}: {reason}"
    return spent
