"""Each verb as one function: settings in, records out, files in the run directory.

    from sensitivity import api
    from sensitivity.config import RunSettings

    plan = api.run(RunSettings(task="my_task.py:task", max_drop="1pt"))

The command line calls these functions, and so does `sensitivity.verbs`, the interface for Python. A
task that was made in a program is passed as `task`; the settings then hold `config.IN_PYTHON` in
its place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sensitivity.allocator import trim_heap
from sensitivity.commands import command_line, python_call
from sensitivity.config import (
    IN_PYTHON,
    OF_ONNX,
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
    UnitChoices,
    check_numbers,
    is_model_file,
    refuse_needless,
    target_of,
)
from sensitivity.errors import (
    ExportError,
    JournalMismatch,
    LogError,
    SensitivityError,
)
from sensitivity.exporters.verification import Verification
from sensitivity.journal.journal import refuse_used
from sensitivity.lock import locked
from sensitivity.loggers.base import Logger
from sensitivity.measure.detail import detection_detail
from sensitivity.measure.progress import Progress, Stopwatch, silent
from sensitivity.measure.scan import Scan
from sensitivity.planners.base import wants_cost
from sensitivity.quantizers.base import form_of
from sensitivity.records import (
    BenchResult,
    Finding,
    Plan,
)
from sensitivity.registry import load
from sensitivity.reporting.compare import ComparedRun
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.entry import entry_of
from sensitivity.reporting.summaries import summary_of
from sensitivity.reporting.tables import detection_table
from sensitivity.run_dir import RunDir, RunInfo
from sensitivity.seeds import seeded
from sensitivity.session import Session, open_session
from sensitivity.steps import lazy
from sensitivity.steps.compare import compare_plans, places_of
from sensitivity.steps.named_plans import check_name
from sensitivity.steps.plan import check_formats, search_plan
from sensitivity.steps.recorded import recorded
from sensitivity.steps.replan import replan
from sensitivity.steps.report import report_data
from sensitivity.steps.scan import scan_session
from sensitivity.steps.task_reference import converted_to_onnx, task_reference
from sensitivity.tasks.load import TaskLike
from sensitivity.units.units import pins

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

LOGGED = ("report.html", "plan.json", "bench.csv")
"""Files of a plan that an experiment tracker keeps, in addition to the ranking in scan.csv."""


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
    resumes = getattr(settings, "resume", True)
    earlier = RunDir(directory).read_if_there("run.json", RunInfo) if resumes else None
    if earlier is None:
        return wanted or 0
    if wanted not in (None, earlier.seed):
        raise JournalMismatch(
            f"Expected --seed {earlier.seed}, with which the run in {directory} has drawn its "
            f"data, got {wanted}; leave it out to go on, or choose another --out."
        )
    return earlier.seed


@_one_at_a_time
def run(settings: RunSettings, progress: Progress = silent, task: TaskLike | None = None) -> Plan:
    """Scan, plan, export, bench and report. The returned plan says whether the target was met."""
    command = _command("run", settings, in_python=settings.task == IN_PYTHON)
    _check_run_settings(settings)
    lazy.forecast.begin(progress, "check")
    held_out = None
    with _session(settings, progress, task) as session:
        pins(settings.skip, settings.keep, session.units)
        check_formats(settings, session.source)
        session, exportable = _checked(session, settings)
        times_files = settings.cost is not None or wants_cost(settings.planner)
        if times_files and not exportable:
            lazy.check_export.check_export(session)  # raises with the reason
        size, exact = lazy.forecast.size_of(session), session.exact_samples()
        steps = lazy.forecast.STEPS if exportable else lazy.forecast.WITHOUT_FILES
        begin = partial(lazy.forecast.begin, progress, steps=steps)
        begin("scan", lazy.forecast.amounts(size, exact, settings))
        scanned = scan_session(session, command, settings)
        misses = lazy.forecast.int8_misses(scanned, settings, session.task.full_scale)
        size = replace(size, misses=misses, collapsed=scanned.collapsed)
        expected = lazy.forecast.amounts(size, exact, settings)
        begin("plan", expected)
        chosen = _plan(session, settings, command, scanned)
        if exportable:
            begin("export", expected)
            _export_for_bench(session, chosen, settings, command)
            if not settings.no_accuracy:
                held_out = lazy.bench.held_out(session, chosen)
    run_dir = session.run_dir
    del session  # frees the values that its simulator keeps
    if exportable:
        begin("bench", expected)
        _bench(run_dir, settings, command, progress, held_out)
    trim_heap()
    begin("report", expected)
    info = run_dir.info()
    run_dir.write("run.json", replace(info, commands=info.commands | {"run": command}))
    report(ReportSettings(directory=run_dir.path, log=settings.log))
    return chosen


def _check_run_settings(settings: RunSettings) -> None:
    """Raise for a mistake in the settings of any step, before the long work begins."""
    check_numbers(settings)
    check_formats(settings)
    lazy.bench.runtime_of(settings.runtime)
    target_of(settings, full_scale=1.0)
    _check_accuracy(settings)
    _logger(settings)


def _export_for_bench(session: Session, chosen: Plan, settings: RunSettings, command: str) -> None:
    targets = lazy.export.targets_of(settings.runtime)
    if settings.for_ == "qnn":  # which no bench times
        targets += lazy.export.targets_of(settings.for_)
    with recorded(session.run_dir, "export", command, session):
        lazy.export.export_plan(
            session,
            chosen,
            targets,
            forgiving=True,
            judged_later=not settings.no_accuracy,
        )


def forecast(
    settings: RunSettings | ScanSettings, task: TaskLike | None = None
) -> lazy.dry_run.Forecast:
    """Estimate from one timed batch what a run or a scan would take. Nothing is written into its
    directory."""
    watch = Stopwatch()
    check_numbers(settings)
    if isinstance(settings, RunSettings):
        target_of(settings, full_scale=1.0)
    seed = _seed(settings, out_of(settings))
    with tempfile.TemporaryDirectory() as folder, seeded(seed):
        out = Path(folder)
        user_task = task or task_reference(settings, out)
        memory = _memory(settings)
        with open_session(user_task, out, resume=False, choices=settings, memory=memory) as session:
            return lazy.dry_run.forecast_of(session, settings, watch)


@_one_at_a_time
def scan(settings: ScanSettings, progress: Progress = silent, task: TaskLike | None = None) -> Scan:
    """Rank the units of the task's model and write run.json, scan.json and scan.csv."""
    check_numbers(settings)
    command = _command("scan", settings, in_python=settings.task == IN_PYTHON)
    with _session(settings, progress, task) as session:
        return scan_session(_checked(session, settings)[0], command, settings)


def check(
    settings: CheckSettings, progress: Progress = silent, task: TaskLike | None = None
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
    settings: CheckSettings, progress: Progress, task: TaskLike | None
) -> tuple[Finding, ...]:
    begin = partial(lazy.forecast.begin, progress, steps=lazy.forecast.CHECKING)
    begin("open")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        notes: tuple[Finding, ...] = ()
        if is_model_file(settings.task):
            settings = converted_to_onnx(settings, out)
            notes = lazy.quantize_findings.float_findings(settings)
            if settings.data is None:
                begin("check")
                return notes or lazy.check_file.check_file(
                    Path(settings.task), settings.float_model
                )
        user_task = task or task_reference(settings, out, progress)
        with open_session(
            user_task, out, resume=False, choices=UnitChoices(), progress=progress
        ) as session:
            begin("check")
            return (*lazy.preflight.check(session), *notes)


@_one_at_a_time
def plan(settings: PlanSettings, progress: Progress = silent, task: TaskLike | None = None) -> Plan:
    """Choose a skip-set for the run in `settings.directory` and write plan.json.

    task: the run's task; needed only if it was made in Python and the answer has to be searched
        for.
    """
    check_numbers(settings)
    run_dir = RunDir(settings.directory, settings.name)
    info, scanned = run_dir.info(), run_dir.read("scan.json", Scan)
    check_name(run_dir, target_of(settings, info.full_scale))
    pins(settings.skip, settings.keep, info.units)
    if settings.for_ and settings.formats is None:
        raise SensitivityError(
            "Expected --formats beside --for, which limits the formats of a plan, got "
            f"{settings.for_} alone; add --formats, or leave --for out."
        )
    check_formats(settings)
    command = _command("plan", settings, in_python=info.in_python)
    if not settings.search:
        with recorded(run_dir, "plan", command):
            answered = replan(run_dir, settings, task)
        if answered is not None:
            return answered
    user_task = task or run_dir.reference()
    with open_session(
        user_task, settings.directory, resume=True, workers=settings, progress=progress
    ) as session:
        session = replace(session, run_dir=run_dir)
        return _plan(session, settings, command, scanned)


@_one_at_a_time
def export(
    settings: ExportSettings, progress: Progress = silent, task: TaskLike | None = None
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
    lazy.config.write_tool_config(run_dir, writer)
    return run_dir.read("export.json", Verification)


@_one_at_a_time
def write_config(
    settings: ExportSettings, progress: Progress = silent, task: TaskLike | None = None
) -> lazy.config.WrittenConfig:
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
    return lazy.config.write_tool_config(run_dir, writer)


def _export_missing(
    run_dir: RunDir, settings: ExportSettings, progress: Progress, task: TaskLike | None
) -> None:
    """Export if `for_` is given, or if the files do not exist or belong to another plan."""
    if settings.for_ or not lazy.config.has_files_of(run_dir, run_dir.plan()):
        _export_files(run_dir, replace(settings, config=None), progress, task)


def _export_files(
    run_dir: RunDir, settings: ExportSettings, progress: Progress, task: TaskLike | None
) -> Verification:
    info, chosen = run_dir.info(), run_dir.plan()
    is_file = form_of(load("quantizers", info.source)) == "onnx"
    if is_file and settings.for_ not in (None, "onnxruntime", "qnn"):
        raise ExportError(
            "Expected no --for but onnxruntime or qnn with a Q/DQ ONNX file, whose other exports "
            f"keep the form that its toolkit gave it, got {settings.for_}; export without it and "
            f"let {settings.for_} read these files."
        )
    targets = lazy.export.targets_of(settings.for_)
    refused = lazy.export.refusals(targets, chosen, info.quantizers)
    if refused and (settings.for_ != "all" or len(refused) == len(targets)):
        raise next(iter(refused.values()))
    targets = tuple(target for target in targets if target not in refused)
    command = _command("export", settings, in_python=info.in_python)
    user_task = task or run_dir.reference()
    with open_session(user_task, settings.directory, resume=True, progress=progress) as session:
        session = replace(session, run_dir=run_dir)
        with recorded(session.run_dir, "export", command, session):
            return lazy.export.export_plan(session, chosen, targets, refused=refused)


@_one_at_a_time
def bench(
    settings: BenchSettings, progress: Progress = silent, task: TaskLike | None = None
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
    lazy.html.write_report(data, run_dir.folder)
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
            f"Expected {logger.name} to accept the run, got {type(error).__name__}: {reason}; "
            f"everything else is done: log it again with: {again}"
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
    return lazy.netron.described_file(RunDir(settings.directory, settings.name))


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
    settings: ScanSettings | RunSettings, progress: Progress, task: TaskLike | None
) -> AbstractContextManager[Session]:
    out = out_of(settings)
    refuse_used(RunDir(out).journal, settings.resume)  # before a task file is written there
    if task is not None:
        refuse_needless(settings, OF_ONNX, "a task that is no ONNX file")
    user_task = task or task_reference(settings, out, progress)
    return open_session(
        user_task,
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
    findings = lazy.preflight.check(session, target)
    lazy.preflight.refuse_errors(findings, force=settings.force)
    exportable = all(finding.code != "export-impossible" for finding in findings)
    return replace(
        session, warnings=(*session.warnings, *lazy.preflight.warnings_of(findings))
    ), exportable


def _plan(
    session: Session, settings: RunSettings | PlanSettings, command: str, scanned: Scan
) -> Plan:
    with recorded(session.run_dir, "plan", command, session):
        chosen = search_plan(session, settings, scanned, lazy.bench.runtime_of(settings.runtime))
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
    held: lazy.bench.HeldOut | TaskLike | None = None,
) -> BenchResult:
    with recorded(run_dir, "bench", command):
        return lazy.bench.bench_run(run_dir, settings, progress, held)


def compare(settings: CompareSettings) -> tuple[ComparedRun, ...]:
    """Read the runs or plans that `settings` names, and write compare.html, compare.csv and
    compare_layers.csv into `settings.out` if it is given.

    Raises RunDirError for fewer than two plans, for one given twice, and for one that does not
    exist.
    """
    return compare_plans(places_of(settings), settings.out)
