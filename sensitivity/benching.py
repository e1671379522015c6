"""Latency and accuracy of a run's files in a runtime, and what its layers ran in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sensitivity.bench.environment import environment, usable_cores
from sensitivity.bench.protocol import bench_files
from sensitivity.config import BenchChoices
from sensitivity.errors import RunDirError, RuntimeUnavailable, SensitivityError, TaskError
from sensitivity.export.verification import Verification
from sensitivity.planning import with_timings
from sensitivity.records import BenchResult, Estimate, Timing
from sensitivity.registry import load
from sensitivity.reporting.csv import write_csv
from sensitivity.reporting.formats import MetricFormat
from sensitivity.reporting.tables import bench_table
from sensitivity.run_dir import Exported, RunDir
from sensitivity.runtimes.base import Runtime, Tensors
from sensitivity.scan.progress import Progress
from sensitivity.scan.ranking import estimate
from sensitivity.tasks.base import EvaluateTask
from sensitivity.tasks.load import load_task

WARMUP_ROUNDS = 10


def runtime_of(name: str) -> Runtime:
    """The runtime of this name. Raises NamesError for an unknown one, RuntimeUnavailable where it cannot work here."""
    runtime: Runtime = load("runtimes", name)()
    problem = runtime.unavailable()
    if problem:
        raise RuntimeUnavailable(f"Expected {name} to work on this machine, got: {problem}.")
    return runtime


def benched(run_dir: RunDir, settings: BenchChoices, progress: Progress) -> BenchResult:
    """Time the files of a run's plan, say what they ran in, and write bench.json, bench.csv and layers.csv.

    Raises RunDirError where the files are those of an earlier plan, and what the runtime raises for one it cannot take.
    """
    # Here, since they import ONNX, which takes half a second that `plan` need not wait.
    from sensitivity.bench.inputs import check_files, random_inputs
    from sensitivity.bench.profile import layer_rows, profile_files
    from sensitivity.bench.verdict import verdict

    runtime = runtime_of(settings.runtime)
    files = run_dir.models(runtime.lowering if hasattr(runtime, "lowering") else runtime.name)
    exported = _of_the_plan(run_dir)
    check_files(files.values())
    inputs = random_inputs(files["float"])
    timings, refused = _timed(files, runtime, inputs, settings, progress)
    files = {timing.variant: files[timing.variant] for timing in timings}
    profiles = profile_files(files, run_dir.canonical(), runtime, inputs)
    accuracy = _accuracy(run_dir, files, runtime) if settings.accuracy else {}
    sentences = [*verdict(timings, profiles), *accuracy_sentences(accuracy, runtime.name, run_dir), *refused]
    result = BenchResult(timings, tuple(sentences), environment(), accuracy, exported.skip)
    run_dir.write("bench.json", result)
    with_timings(run_dir, result)
    write_csv(bench_table(timings), run_dir.path / "bench.csv")
    layers = [row for variant, profile in profiles.items() for row in layer_rows(variant, profile)]
    write_csv(pd.DataFrame(layers), run_dir.path / "layers.csv")
    return result


def _of_the_plan(run_dir: RunDir) -> Verification:
    exported = run_dir.read("export.json", Verification)
    if not exported.is_of(run_dir.plan()):
        raise RunDirError(
            f"Expected {run_dir.path} to hold files of the plan in plan.json, got those of an earlier plan; "
            f"make them again with: sensitivity export {run_dir.path}"
        )
    return exported


def _timed(
    files: Mapping[Exported, Path], runtime: Runtime, inputs: Tensors, settings: BenchChoices, progress: Progress
) -> tuple[tuple[Timing, ...], list[str]]:
    """Latencies, and why the FP16 file is not among them where the runtime does not take it."""
    refused: list[SensitivityError] = []
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
    return timings, [f"The FP16 file is left out: {error}" for error in refused]


def _accuracy(run_dir: RunDir, files: Mapping[Exported, Path], runtime: Runtime) -> dict[str, Estimate]:
    """The metric of each file in this runtime, on `holdout`. Loads the run's task. Raises TaskError."""
    from sensitivity.export.evaluate import evaluate_file

    task = load_task(run_dir.reference())
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
