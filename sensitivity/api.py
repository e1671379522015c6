"""Each verb as one function: settings in, records out, files in the run directory.

from sensitivity import api
from sensitivity.config import RunSettings

plan = api.run(RunSettings(task="my_task.py:task", max_drop="1pt"))
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from sensitivity.bench.environment import environment, usable_cores
from sensitivity.bench.protocol import bench_files
from sensitivity.config import (
    BenchChoices,
    BenchSettings,
    ExportSettings,
    PlanSettings,
    ReportSettings,
    RunSettings,
    ScanChoices,
    ScanSettings,
    command_line,
    shown,
    target_of,
)
from sensitivity.errors import ExportError, RunDirError, RuntimeUnavailable, SensitivityError, TaskError
from sensitivity.export.facts import facts
from sensitivity.export.verification import Verification
from sensitivity.journal.journal import refuse_used
from sensitivity.planning import read_frontier, replan, searched, with_timings
from sensitivity.quantizers.units import pins
from sensitivity.recalibration import ranges_of
from sensitivity.records import SPLITS, BenchResult, Estimate, Mode, Plan
from sensitivity.registry import load
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.data import ReportData
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.tables import bench_table, scan_table
from sensitivity.run_dir import Exported, RunDir, RunInfo
from sensitivity.runtimes.base import Runtime
from sensitivity.scan.detail import detection_detail
from sensitivity.scan.progress import Progress, silent
from sensitivity.scan.raced import EXACT_UP_TO, Budget, raced_scan
from sensitivity.scan.ranking import estimate
from sensitivity.scan.scan import Scan, usual_mode
from sensitivity.scan.scan import scan as measure_scan
from sensitivity.scan.sharing import sharing_cost
from sensitivity.session import Session, open_session
from sensitivity.tasks.base import EvaluateTask
from sensitivity.tasks.detection_detail import DetectionDetail
from sensitivity.tasks.load import load_task

if TYPE_CHECKING:
    from sensitivity.export.lower import LowerTarget

WARMUP_ROUNDS = 10
STALE = "The exported files and their latencies are of an earlier plan and are not shown; run export and bench again."
METRIC_BATCHES = 6
"""Of each split at most, for the metric of the exported files."""


def run(settings: RunSettings, progress: Progress = silent) -> Plan:
    """Scan, plan, export, bench and report. The plan says whether the target was met."""
    command = command_line("run", settings)
    # A mistake in the last step's settings is told before the long work.
    runtime_of(settings.runtime)
    target_of(settings, full_scale=1.0)
    with _session(settings, progress) as session:
        pins(settings.skip, settings.keep, session.units)
        scanned = _scan(session, command, settings)
        found = _plan(session, settings, command, scanned)
        _export(session, found, command, targets_of(settings.runtime), forgiving=True)
    _bench(session.run_dir, settings, command, progress)
    report(ReportSettings(directory=session.run_dir.path))
    return found


def scan(settings: ScanSettings, progress: Progress = silent) -> Scan:
    """Rank the units of a task's model and write run.json, scan.json and scan.csv."""
    with _session(settings, progress) as session:
        return _scan(session, command_line("scan", settings), settings)


def plan(settings: PlanSettings, progress: Progress = silent) -> Plan:
    """Choose a skip-set for the run in `settings.directory` and write plan.json."""
    run_dir = RunDir(settings.directory)
    info, scanned = run_dir.info(), run_dir.read("scan.json", Scan, "sensitivity scan TASK --out")
    target_of(settings, info.full_scale)
    pins(settings.skip, settings.keep, info.units)
    command = command_line("plan", settings)
    if not settings.search:
        with _noted(run_dir, "plan", command):
            answered = replan(run_dir, settings)
        if answered is not None:
            return answered
    with open_session(info.task, settings.directory, resume=True, progress=progress) as session:
        return _plan(session, settings, command, scanned)


def export(settings: ExportSettings, progress: Progress = silent) -> Verification:
    """Write and verify model.float.onnx, model.int8.onnx and model.partial.onnx from plan.json."""
    run_dir = RunDir(settings.directory)
    info, chosen = run_dir.info(), run_dir.plan()
    if settings.for_ and info.source == "onnx_qdq":
        raise ExportError(
            f"Expected no --for with a Q/DQ ONNX file, whose exports keep the form that its toolkit gave it, "
            f"got {settings.for_}; export without it and let {settings.for_} read these files."
        )
    with open_session(info.task, settings.directory, resume=True, progress=progress) as session:
        return _export(session, chosen, command_line("export", settings), targets_of(settings.for_))


def bench(settings: BenchSettings, progress: Progress = silent) -> BenchResult:
    """Time the exported files and write bench.json and bench.csv. Needs neither the task nor its framework."""
    return _bench(RunDir(settings.directory), settings, command_line("bench", settings), progress)


def report(settings: ReportSettings) -> Path:
    """Write report.html, the CSV files and the figures from what the run directory holds."""
    from sensitivity.reporting.html import write_report

    run_dir = RunDir(settings.directory)
    write_report(report_data(run_dir.path), run_dir.path)
    return run_dir.path / "report.html"


def out_of(settings: ScanSettings | RunSettings) -> Path:
    """The run directory: as given, or runs/<file>, or runs/<folder> for a file that is just called task.py."""
    if settings.out is not None:
        return settings.out
    file = Path(settings.task.partition(":")[0])
    return Path("runs") / (file.resolve().parent.name if file.stem == "task" else file.stem)


def _session(settings: ScanSettings | RunSettings, progress: Progress) -> AbstractContextManager[Session]:
    memory = None if settings.memory is None else settings.memory * 2**20
    out = out_of(settings)
    return open_session(
        _reference(settings, out), out, resume=settings.resume, choices=settings, memory=memory, progress=progress
    )


def _reference(settings: ScanSettings | RunSettings, out: Path) -> str:
    """The task as given; for an ONNX file, a task file that is written into the run directory."""
    if not settings.task.endswith(".onnx"):
        return settings.task
    from sensitivity.onnx_task import written_task

    refuse_used(RunDir(out).journal, settings.resume)
    return written_task(settings.task, out, data=settings.data, decode=settings.decode, float_path=settings.float_model)


def _scan(session: Session, command: str, settings: ScanSettings | RunSettings) -> Scan:
    run_dir = session.run_dir
    run_dir.write("run.json", _info(session, settings))
    with _noted(session.run_dir, "scan", command, session):
        mode = settings.mode or usual_mode(session.measurer, session.source.quantizers)
        run_dir.write("run.json", replace(run_dir.info(), mode=mode))
        result = _measured(session, settings, mode)
        sharing = sharing_cost(session.measurer, session.source.quantizers, session.own_ranges)
        result = replace(result, sharing=sharing)
        run_dir.write("scan.json", result)
        write_csv(scan_table(result.effects, session.units), run_dir.path / "scan.csv")
    return result


def _measured(session: Session, settings: ScanChoices, mode: Mode) -> Scan:
    """The exact scan where it is asked for or affordable, else a race for which a cheap signal orders the units."""
    subject = (session.measurer, session.units, session.source.quantizers)
    budget = Budget(settings.samples, settings.time_budget)
    if budget == Budget(None, None):
        if session.exact_samples() <= EXACT_UP_TO:
            return measure_scan(*subject, mode)
        budget = Budget()
    if settings.exact or settings.signal == "metric":
        return measure_scan(*subject, mode)
    return raced_scan(*subject, mode, session.signal(settings.signal), budget)


def _plan(session: Session, settings: RunSettings | PlanSettings, command: str, scanned: Scan) -> Plan:
    with _noted(session.run_dir, "plan", command, session):
        found = searched(session, settings, scanned, runtime_of(settings.runtime))
        detail = detection_detail(session.measurer, session.source.quantizers, found)
        if detail:
            session.run_dir.write("detection.json", detail)
    return found


def targets_of(wanted: str | None) -> tuple[LowerTarget, ...]:
    """The runtimes that files are lowered for: those that `export --for` names, or that of a bench where it has any."""
    from sensitivity.export.lower import TARGETS

    names = TARGETS if wanted == "all" else TARGETS.keys() & {wanted}
    return tuple(cast("LowerTarget", name) for name in names)


def _export(
    session: Session, chosen: Plan, command: str, targets: Sequence[LowerTarget], *, forgiving: bool = False
) -> Verification:
    """forgiving: a lowered file that does not compute what it should is left out, where it was not asked for by name."""
    if session.example is None:
        raise TaskError(
            "Expected the task to have example_inputs for export, got None; add one batch of inputs to the EvaluateTask."
        )
    task, source, run_dir = session.task, session.source, session.run_dir
    with _noted(run_dir, "export", command, session), ranges_of(chosen, source):
        judge: dict[str, Any] = {
            "batches": session.some_batches(METRIC_BATCHES),
            "score": task.score,
            "aggregate": task.aggregate,
            "full_scale": task.full_scale,
        }
        if source.source == "onnx_qdq":
            verification = _exported_onnx(session, chosen, judge)
        else:
            verification = _exported_torch(session, chosen, targets, judge, {} if forgiving else None)
        ranges = tuple(one.key for one in chosen.ranges)
        verification = replace(verification, skip=chosen.skip, ranges=ranges)
        run_dir.write("export.json", verification)
    return verification


def _exported_torch(
    session: Session,
    chosen: Plan,
    targets: Sequence[LowerTarget],
    judge: dict[str, Any],
    refused: dict[str, str] | None,
) -> Verification:
    from sensitivity.export.half_baseline import NAME as HALF
    from sensitivity.export.half_baseline import half_baseline
    from sensitivity.export.lowered import lower_files
    from sensitivity.export.torch_model import export_files
    from sensitivity.export.verify import verify

    source, units = session.source, session.units
    with session.measurer.progress("export, verify, lower", 3) as advance:
        files = export_files(
            source,
            session.example,
            units,
            chosen.skip,
            session.run_dir.path,
            fingerprint=str(session.measurer.journal.head["model"]),
            calibration=session.inputs(),
        )
        advance(1, 0)
        verification = verify(source, files, session.example, units, chosen.skip, **judge)
        advance(1, 0)
        lowered = lower_files(files, targets, session.example, left_out=refused, **judge)
        half = half_baseline(files["float"], session.example)
        advance(1, 0)
    lowered |= {} if isinstance(half, str) else {HALF: half}
    left_out = (refused or {}) | ({HALF: half} if isinstance(half, str) else {})
    made = [*files.values(), *(session.run_dir.path / name for name in lowered)]
    return replace(verification, lowered=lowered, left_out=left_out, finished=_finished(session, made))


def _finished(session: Session, files: Sequence[Path]) -> dict[str, str]:
    """What the task makes of the verified files."""
    finish = session.task.finish
    return {name: fact for file in files for name, fact in finish(file, session.example).items()} if finish else {}


def _exported_onnx(session: Session, chosen: Plan, judge: dict[str, Any]) -> Verification:
    """The files keep the form that the source's toolkit gave them: none is lowered for a runtime."""
    from sensitivity.export.onnx_file import export_onnx, verify_onnx
    from sensitivity.simulators.choose import simulator_for

    source, units = session.source, session.units
    with session.measurer.progress("export, verify", 2) as advance:
        fingerprint = str(session.measurer.journal.head["model"])
        files = export_onnx(source, units, chosen.skip, session.run_dir.path, fingerprint=fingerprint)
        advance(1, 0)
        simulator = simulator_for(source, session.example)
        verification = verify_onnx(source, files, units, chosen.skip, session.example, simulator, **judge)
        advance(1, 0)
    return verification


def runtime_of(name: str) -> Runtime:
    """The runtime of this name. Raises NamesError for an unknown one, RuntimeUnavailable where it cannot work here."""
    runtime: Runtime = load("runtimes", name)()
    problem = runtime.unavailable()
    if problem:
        raise RuntimeUnavailable(f"Expected {name} to work on this machine, got: {problem}.")
    return runtime


def _bench(run_dir: RunDir, settings: BenchChoices, command: str, progress: Progress) -> BenchResult:
    # Here, since they import ONNX, which takes half a second that `plan` need not wait.
    from sensitivity.bench.inputs import check_files, random_inputs
    from sensitivity.bench.profile import layer_rows, profile_files
    from sensitivity.bench.verdict import verdict

    runtime = runtime_of(settings.runtime)
    files = run_dir.models(runtime.lowering if hasattr(runtime, "lowering") else runtime.name)
    exported = run_dir.read("export.json", Verification, "sensitivity export")
    if not exported.is_of(run_dir.plan()):
        raise RunDirError(
            f"Expected {run_dir.path} to hold files of the plan in plan.json, got those of an earlier plan; "
            f"make them again with: sensitivity export {run_dir.path}"
        )
    check_files(files.values())
    inputs = random_inputs(files["float"])
    refused: list[SensitivityError] = []
    with _noted(run_dir, "bench", command):
        with progress("bench", settings.rounds) as advance:
            timings = bench_files(
                files,
                runtime,
                inputs,
                threads=settings.threads or usable_cores(),
                rounds=settings.rounds,
                warmup=WARMUP_ROUNDS,
                progress=lambda done, rounds: advance(1, len(files)),
                left_out=refused.append,
            )
        files = {timing.variant: files[timing.variant] for timing in timings}
        profiles = profile_files(files, run_dir.canonical(), runtime, inputs)
        accuracy = _accuracy(run_dir, files, runtime) if settings.accuracy else {}
        sentences = [*verdict(timings, profiles), *accuracy_sentences(accuracy, runtime.name, run_dir)]
        sentences += [f"The FP16 file is left out: {error}" for error in refused]
        result = BenchResult(timings, tuple(sentences), environment(), accuracy, exported.skip)
        run_dir.write("bench.json", result)
        with_timings(run_dir, result)
        write_csv(bench_table(timings), run_dir.path / "bench.csv")
        layers = [row for variant, profile in profiles.items() for row in layer_rows(variant, profile)]
        write_csv(pd.DataFrame(layers), run_dir.path / "layers.csv")
    return result


def _accuracy(run_dir: RunDir, files: Mapping[Exported, Path], runtime: Runtime) -> dict[str, Estimate]:
    """The metric of each file in this runtime, on `holdout`. Loads the run's task. Raises TaskError."""
    from sensitivity.export.evaluate import evaluate_file

    task = load_task(run_dir.info().task)
    if isinstance(task, EvaluateTask):
        raise TaskError(
            "Expected a task with samples for --accuracy, got one with evaluate(model) only; return a Task with score()."
        )
    found: dict[str, Estimate] = {}
    for variant, file in files.items():
        _, scores = evaluate_file(file, task.data["holdout"], task.score, task.aggregate, runtime=runtime)
        found[variant] = estimate(scores, task.aggregate)
    return found


def accuracy_sentences(accuracy: Mapping[str, Estimate], runtime: str, run_dir: RunDir) -> list[str]:
    """The metric of each file in this runtime, beside what the plan simulated for it."""
    if not accuracy:
        return []
    info, chosen = run_dir.info(), run_dir.plan()
    metric = MetricFormat(info.metric, info.full_scale)
    found = ", ".join(f"{name} {metric.level(one.value)} {metric.interval(one)}" for name, one in accuracy.items())
    simulated = metric.level(chosen.metric.holdout.value)
    return [f"{metric.name} measured in {runtime} on holdout: {found}; the plan's was simulated as {simulated}."]


def _info(session: Session, settings: ScanSettings | RunSettings) -> RunInfo:
    earlier = session.run_dir.read_if_there("run.json", RunInfo)
    return RunInfo(
        simulator=earlier.simulator if earlier else None,
        samples=earlier.samples if earlier else 0,
        task=session.reference,
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
    )


@contextmanager
def _noted(run_dir: RunDir, verb: str, command: str, session: Session | None = None) -> Iterator[None]:
    """Note in run.json the command, time and samples of a verb that has ended well."""
    run_dir.info()  # a folder that is no run is told before the work
    start = time.monotonic()
    before = session.measurer.samples if session else 0
    yield
    info = run_dir.info()
    info = replace(
        info,
        commands=info.commands | {verb: command},
        seconds=info.seconds | {verb: round(time.monotonic() - start, 3)},
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


def report_data(directory: Path) -> ReportData:
    """What the report of a run directory shows: the steps that have been done in it. Raises RunDirError."""
    run_dir = RunDir(directory)
    info = run_dir.info()
    scanned = run_dir.read_if_there("scan.json", Scan)
    exported = run_dir.read_if_there("export.json", Verification)
    timed = run_dir.read_if_there("bench.json", BenchResult)
    chosen = run_dir.read_if_there("plan.json", Plan)
    detail = run_dir.read_if_there("detection.json", DetectionDetail)
    old_files = exported and chosen and not exported.is_of(chosen)
    stale = old_files or (timed and chosen and timed.skip != chosen.skip)
    if stale:
        exported = timed = None
    return ReportData(
        title=f"{directory.resolve().name} in INT8",
        metric=info.metric,
        full_scale=info.full_scale,
        mode=info.mode,
        command="\n".join(dict.fromkeys(info.commands.values())),
        settings=info.settings | _spent(info),
        baselines=scanned.baselines if scanned else {},
        effects=scanned.effects if scanned else (),
        units=info.units,
        plan=chosen,
        frontier=tuple(read_frontier(run_dir)[1]) if (run_dir.path / "frontier.json").exists() else (),
        detection=detail if detail and chosen and detail.skip == chosen.skip else None,
        timings=timed.timings if timed else (),
        bench_sentences=timed.sentences if timed else (),
        environment=timed.environment if timed else info.environment,
        verification=facts(exported) if exported else None,
        warnings=info.warnings + ((STALE,) if stale else ()),
        scales=info.scales,
        sharing=scanned.sharing if scanned else None,
    )


def _spent(info: RunInfo) -> dict[str, str]:
    """What the numbers cost, for the report."""
    simulator = {"simulator": f"{info.simulator['name']}: {info.simulator['reason']}"} if info.simulator else {}
    seconds = ", ".join(f"{verb} {value:.1f} s" for verb, value in info.seconds.items())
    return {"samples forwarded": str(info.samples), "time": seconds} | simulator
