"""Latency and accuracy of a run's files in a runtime, and the precision that its layers ran in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from sensitivity.allocator import collect_and_trim
from sensitivity.config import BenchChoices
from sensitivity.errors import RunDirError, RuntimeUnavailable, SensitivityError, TaskError
from sensitivity.exporters.evaluate import evaluate_file
from sensitivity.exporters.lower import can_be_lowered
from sensitivity.exporters.verification import METRIC_ALPHA, METRIC_TOLERANCE, Verification
from sensitivity.measure.progress import Progress
from sensitivity.measure.ranking import estimate, gain, per_sample
from sensitivity.measure.scan import has_collapsed
from sensitivity.quantizers.base import form_of
from sensitivity.records import (
    BenchResult,
    Estimate,
    Plan,
    RuntimeAccuracy,
    Scores,
    Timing,
)
from sensitivity.registry import load
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.formats import MetricFormat, listing
from sensitivity.reporting.number_formats import format_of, in_format
from sensitivity.reporting.tables import bench_table
from sensitivity.rules.catalog import RULES
from sensitivity.rules.formats import computed_in_float, target_of_runtime
from sensitivity.rules.lint import run_lint
from sensitivity.rules.targets import TARGETS
from sensitivity.run_dir import EXPORTED, Exported, RunDir
from sensitivity.runtimes.base import Runtime, Tensors
from sensitivity.session import Session, open_session
from sensitivity.stats.paired import differs
from sensitivity.steps.plan_files import with_timings
from sensitivity.tasks.base import Task
from sensitivity.tasks.load import TaskLike
from sensitivity.timing.environment import environment, usable_cores
from sensitivity.timing.explain import in_int8
from sensitivity.timing.inputs import check_files, random_inputs
from sensitivity.timing.profile import layer_rows, profile_files
from sensitivity.timing.protocol import bench_files
from sensitivity.timing.same_files import same_files
from sensitivity.timing.sentences import bench_sentences, saturation_sentences

WARMUP_ROUNDS = 10

USUAL_ROUNDS = 100
ENOUGH_S = 20
"""Seconds of timing after which the usual rounds end (`timing.protocol.LEAST_ROUNDS`)."""

AFFORDABLE_S = 30
"""Seconds that may be spent on measuring the metric of the files in the runtime if it was not asked
for."""

MEASURED = {"partial", "int8"}
"""Files whose metric is measured in the runtime if it was not asked for. Float is verified to give
the model's own outputs, and processors compute FP16 files in FP32. An INT8 file that is noise in
the simulation is not measured either."""

CHANGES_NUMBERS = {"SQ705"}
"""Rules that are warnings but nevertheless change what a file computes."""

TOO_LONG = (
    "The metric in {} was not measured for {}: that would take more than {} s; --accuracy "
    "measures it anyway."
)


def runtime_of(name: str) -> Runtime:
    """Return the runtime of this name.

    Raises NamesError for an unknown name, and RuntimeUnavailable if the runtime does not work here.
    """
    runtime: Runtime = load("runtimes", name)()
    problem = runtime.unavailable()
    if problem:
        raise RuntimeUnavailable(f"Expected {name} to work on this machine, got: {problem}.")
    return runtime


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the accuracy of benched files is judged with.

    task: a task with samples.
    float_, plan: per-sample scores of the float model and of the simulated plan on `holdout`.
    """

    task: Task
    float_: Scores
    plan: Scores


def held_out(session: Session, chosen: Plan) -> HeldOut | None:
    """Measure float and the plan on `holdout`; None for a task that has only evaluate(model)."""
    if not session.has_samples:
        return None
    variants = [session.study.float_variant, session.study.plan_variant(chosen)]
    return HeldOut(session.task, *session.measurer.scores(variants, "holdout", "bench: holdout"))


def held_out_of(run_dir: RunDir, user_task: TaskLike | None, progress: Progress) -> HeldOut:
    """Measure float and the plan on `holdout`, for a run directory.

    user_task: the run's task; None loads it from its file.
    Raises TaskError for a task without samples.
    """
    with open_session(
        user_task or run_dir.reference(), run_dir.path, resume=True, progress=progress
    ) as session:
        held = held_out(session, run_dir.plan())
    if held is None:
        raise TaskError(
            "Expected a task with samples for --accuracy, got one with evaluate(model) only; "
            "return a Task with score()."
        )
    return held


def bench_run(
    run_dir: RunDir,
    settings: BenchChoices,
    progress: Progress,
    held: HeldOut | TaskLike | None = None,
) -> BenchResult:
    """Time the files of a run's plan, note which precision they ran in, and write bench.json,
    bench.csv and layers.csv.

    held: judges the files in the runtime as far as that takes little time, and all of them with
        --accuracy. A task, or None for the run's own, is opened only with --accuracy.
    Raises RunDirError if the files belong to an earlier plan, and what the runtime raises for a
    file that it cannot take.
    """
    runtime = runtime_of(settings.runtime)
    collect_and_trim()
    files = run_dir.models(runtime.lowering if hasattr(runtime, "lowering") else runtime.name)
    exported = _of_the_plan(run_dir)
    if not isinstance(held, HeldOut):
        held = held_out_of(run_dir, held, progress) if settings.accuracy else None
    check_files(files.values())
    inputs = random_inputs(files["float"], sizes=exported.sizes)
    same = same_files(run_dir.canonical())
    distinct = {
        variant: file for variant, file in files.items() if same.get(variant, variant) == variant
    }
    timings, refused = _timed(distinct, runtime, inputs, settings, progress)
    timings = tuple(replace(timing, same=_others(timing.variant, same)) for timing in timings)
    files = {timing.variant: files[timing.variant] for timing in timings}
    profiles = profile_files(files, run_dir.canonical(), runtime, inputs)
    keeps_form = _keeps_form(run_dir, runtime)
    in_float = computed_in_float(runtime.name, run_dir.plan().formats.values())
    metric = run_dir.plan().metric
    in_int8_now = metric.recalibrated or metric.quantized
    is_noise = has_collapsed(metric.float.value, in_int8_now.value)
    accuracy, judged, unmeasured = _accuracy(timings, runtime, held, settings, is_noise=is_noise)
    machine = environment()
    sentences = [
        *bench_sentences(timings, profiles, lowers=not keeps_form, in_float=in_float),
        *saturation_sentences(runtime.name, machine, profiles),
        *accuracy_sentences(accuracy, runtime.name, run_dir),
        *unmeasured,
    ]
    sentences += refused
    format_name = format_of(run_dir.info().quantizers)
    result = BenchResult(
        timings,
        tuple(in_format(sentence, format_name) for sentence in sentences),
        machine,
        accuracy,
        exported.skip,
        judged,
        in_int8(timings, profiles),
        keeps_form,
    )
    run_dir.write("bench.json", result)
    with_timings(run_dir, result)
    write_csv(bench_table(timings), run_dir.file("bench.csv"))
    engine = next(iter(exported.engines.values()), None)
    layers = [
        row
        for variant, profile in profiles.items()
        for row in layer_rows(variant, profile, engine if variant == "partial" else None)
    ]
    write_csv(pd.DataFrame(layers), run_dir.file("layers.csv"))
    return result


def _keeps_form(run_dir: RunDir, runtime: Runtime) -> bool:
    """Return whether no file is lowered for the runtime: those of a Q/DQ source, and those of a
    plan in formats that the lowering does not take."""
    if form_of(load("quantizers", run_dir.info().source)) == "onnx":
        return True
    return not can_be_lowered(run_dir.canonical()["partial"], target_of_runtime(runtime.name))


def _others(variant: str, same: Mapping[Exported, Exported]) -> tuple[str, ...]:
    return tuple(other for other, first in same.items() if first == variant and other != variant)


def _of_the_plan(run_dir: RunDir) -> Verification:
    exported = run_dir.read("export.json", Verification)
    if not exported.is_of(run_dir.plan()):
        raise RunDirError(
            f"Expected {run_dir.folder} to hold files of the plan in {run_dir.file('plan.json')}, "
            "got those of an earlier plan; make them again with: "
            f"{run_dir.command_for('export.json')}"
        )
    return exported


def _timed(
    files: Mapping[Exported, Path],
    runtime: Runtime,
    inputs: Tensors,
    settings: BenchChoices,
    progress: Progress,
) -> tuple[tuple[Timing, ...], list[str]]:
    """Return the latencies, and why the FP16 file is missing if the runtime does not take it."""
    refused: list[SensitivityError] = []
    rounds = settings.rounds or USUAL_ROUNDS
    with progress("bench", rounds) as advance:
        timings = bench_files(
            files,
            runtime,
            inputs,
            threads=settings.threads or usable_cores(),
            rounds=rounds,
            warmup=WARMUP_ROUNDS,
            enough_s=None if settings.rounds else ENOUGH_S,
            progress=lambda done, rounds: advance(1, len(files)),
            left_out=refused.append,
        )
    return timings, [f"The FP16 file is left out: {error}" for error in refused]


def _accuracy(
    timings: Sequence[Timing],
    runtime: Runtime,
    held: HeldOut | None,
    settings: BenchChoices,
    *,
    is_noise: bool = False,
) -> tuple[dict[str, Estimate], RuntimeAccuracy | None, list[str]]:
    """Measure the metric of the files in this runtime on `holdout`.

    With --accuracy all files are measured, else those of `MEASURED` that take no longer than
    `AFFORDABLE_S` together, the plan's first. Returns the metrics, what they say of the plan, and
    why something is missing.

    is_noise: whether everything in INT8 has collapsed in the simulation.
    """
    metrics: dict[str, Estimate] = {}
    judged = None
    if held is None:
        return metrics, judged, []
    spent_s = 0.0
    measured = MEASURED - {"int8"} if is_noise else MEASURED
    wanted = [timing for timing in timings if settings.accuracy or measured & set(timing.variants)]
    for timing in sorted(wanted, key=lambda timing: "partial" not in timing.variants):
        spent_s += len(held.plan) / timing.batch * timing.median_ms / 1000
        if spent_s > AFFORDABLE_S and not settings.accuracy:
            return (
                metrics,
                judged,
                [TOO_LONG.format(runtime.name, ", ".join(timing.variants), AFFORDABLE_S)],
            )
        try:
            scores = _scores(timing, runtime, held.task)
        except SensitivityError as error:
            if settings.accuracy:
                raise
            return metrics, judged, [f"The metric in {runtime.name} could not be measured: {error}"]
        metrics |= dict.fromkeys(timing.variants, estimate(scores, held.task.aggregate))
        if "partial" in timing.variants:
            judged = runtime_accuracy(scores, held, runtime.name, Path(timing.file))
    return metrics, judged, []


def _scores(timing: Timing, runtime: Runtime, task: Task) -> Scores:
    _, scores = evaluate_file(
        Path(timing.file), task.data["holdout"], task.score, task.aggregate, runtime=runtime
    )
    return scores


def runtime_accuracy(scores: Scores, held: HeldOut, runtime: str, file: Path) -> RuntimeAccuracy:
    """Compare the plan's file in a runtime with float and with the simulated plan.

    The file differs from the simulation if the paired difference is larger than both chance and
    rounding of single values allow, with the bounds used to verify exported files.

    scores: per-sample scores of the file on all of `holdout`.
    """
    aggregate = held.task.aggregate
    change = aggregate(scores) - aggregate(held.plan)
    apart = abs(change) > METRIC_TOLERANCE * held.task.full_scale
    ours, theirs = per_sample(held.plan, aggregate), per_sample(scores, aggregate)
    differing = apart and len(scores) > 1 and differs(ours, theirs, alpha=METRIC_ALPHA)
    return RuntimeAccuracy(
        runtime=runtime,
        level=estimate(scores, aggregate),
        simulated=estimate(held.plan, aggregate),
        drop=gain(scores, held.float_, aggregate),
        differs=differing,
        cause="; ".join(_causes(file, runtime)) if differing else "",
    )


def _causes(file: Path, runtime: str) -> Iterator[str]:
    """Yield the rules for this runtime that explain why it computes something else."""
    if runtime not in TARGETS:
        return
    nodes: dict[str, list[str]] = {}
    for finding in run_lint(file, runtime):
        if finding.severity == "error" or finding.code in CHANGES_NUMBERS:
            nodes.setdefault(finding.code, []).append(finding.node)
    for rule in RULES:
        if rule.code in nodes:
            yield f"{rule.name} ({rule.code}) at {listing(tuple(nodes[rule.code]), most=2)}"


def accuracy_sentences(
    accuracy: Mapping[str, Estimate], runtime: str, run_dir: RunDir
) -> list[str]:
    """Return a sentence with the metric of each file in this runtime and the metric simulated for
    the plan."""
    if not accuracy:
        return []
    info, chosen = run_dir.info(), run_dir.plan()
    metric = MetricFormat(info.metric, info.full_scale)
    same = "int8" if "partial" in accuracy else "int8 = partial"
    levels = ", ".join(
        f"{same if name == 'int8' else name} {metric.level(level.value)} {metric.interval(level)}"
        for name, level in sorted(accuracy.items(), key=lambda item: EXPORTED.index(item[0]))
    )
    simulated = metric.level(chosen.metric.holdout.value)
    return [
        f"{metric.name} measured in {runtime} on holdout: {levels}; the plan's was simulated as "
        f"{simulated}."
    ]
