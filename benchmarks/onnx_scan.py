"""What a scan of a Q/DQ ONNX file costs: a naive loop, the exact scan and a raced scan, in turn in
one process.

    python benchmarks/onnx_scan.py --file yolox_nano.qdq.onnx --float-model yolox_nano.onnx \
        --data coco/val --json benchmarks/results/onnx_scan_yolox_nano.json

naive: for each operation, the file is written without its pairs, a session is built, and all
    samples are read, run and scored. The edit itself is not counted. The session has graph
    optimizations off, so that its metrics are those of the file itself.
fused: the naive loop with ONNX Runtime's default optimizations, whose integer kernels change the
    numbers. It runs for every `--fused-every`th operation only, since only its time is of interest.
exact: the project's own exact scan of the same variants, through a journal on disk.
raced: the project's raced scan with its plan, from the first session on. The same samples rank and
    confirm, as in scan.py.

With `--every 30` the naive loop and the exact scan take every 30th operation, in the order of the
file, and their times are scaled up to all operations, except the setup of the exact scan, which is
paid once. The raced scan always takes all operations.

The loops take turns, so that other work on the machine slows all of them alike. README.md beside
this file explains the numbers.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from scan_loops import Clock, exact_steps, interleaved
from scan_plans import Raced, raced

from sensitivity.measure.ranking import rank_effects
from sensitivity.onnx_task import onnx_task
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.onnx.batches import feed, fixed_batch, joined, length, pieces
from sensitivity.quantizers.onnx.model import OnnxModel
from sensitivity.records import Scores, Target, Unit
from sensitivity.simulators.base import Simulator
from sensitivity.tasks.base import Task
from sensitivity.tasks.batches import batch_size
from sensitivity.timing.environment import environment


class NoDevice:
    """A model that has no device for the clock to wait for, since everything runs on the CPU."""

    def parameters(self) -> Iterator[Any]:
        return iter(())

    buffers = parameters


def edited(model: OnnxModel, unit: Unit | None) -> bytes:
    """The file without the pairs of one operation."""
    skipped = frozenset(unit.quantizers) if unit else frozenset[str]()
    return ir.to_proto(model.without(skipped)).SerializeToString()


def evaluated(
    model: OnnxModel, content: bytes, task: Task, clock: Clock, folder: Path, *, fused: bool
) -> Scores:
    """Write the file, build a session and evaluate it, as one does by hand for each operation."""
    import onnxruntime

    path = folder / "edited.onnx"
    path.write_bytes(content)
    with clock.on("build"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not fused:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    names, size = [item.name for item in session.get_inputs()], fixed_batch(model)
    parts: list[Scores] = []
    batches = iter(task.data["rank"])
    while True:
        with clock.on("data"):
            batch = next(batches, None)
        if batch is None:
            return np.concatenate(parts)
        with clock.on("model"):
            arrays = feed(batch[0], names)
            outputs = joined(
                [session.run(None, dict(part)) for part in pieces(arrays, size)], length(arrays)
            )
        with clock.on("score"):
            parts.append(np.asarray(task.score(outputs, batch[1]), np.float64))


def naive_steps(
    model: OnnxModel,
    units: Sequence[Unit],
    task: Task,
    clock: Clock,
    found: dict[str, Scores],
    *,
    fused: bool = False,
) -> Iterator[None]:
    """One step for each operation. `found` gets its scores."""
    with tempfile.TemporaryDirectory() as folder:
        for unit in units:
            # not in wall: by hand it may be done faster than `OnnxModel.without` does it
            with clock.on("edit"):
                content = edited(model, unit)
            with clock.on("wall"):
                found[unit.name] = evaluated(model, content, task, clock, Path(folder), fused=fused)
                task.aggregate(found[unit.name])
            yield


def first(task: Task, samples: int | None) -> Task:
    """The first samples of the largest split, to rank and to confirm, read and letterboxed anew on
    each pass. One batch of them is the holdout."""
    batches: Any = max(task.data.values(), key=len)
    if not hasattr(batches, "images"):
        arrays = list(
            islice(batches, samples and -(-samples // batch_size(next(iter(batches))[0])))
        )
        return replace(task, data={"rank": arrays, "confirm": arrays, "holdout": arrays[:1]})
    images = batches.images[:samples]
    anew = replace(batches, images=images, _kept=Forgetting())
    kept = replace(batches, images=images[: batches.batch], _kept={})
    return replace(task, data={"rank": anew, "confirm": anew, "holdout": kept})


class Forgetting(dict[Any, Any]):
    """Keeps nothing, so that every image is read again on each pass."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Do not keep the outputs."""


def benchmark(
    task: Task, points: float, every: int, fused_every: int, races: int
) -> dict[str, Any]:
    model = task.model
    source = quantized_model(model)
    everything = layers(source.quantizers)
    units = everything[every // 2 :: every]
    clocks = {name: Clock(NoDevice()) for name in ("naive", "fused", "exact")}
    scores: dict[str, dict[str, Scores]] = {name: {} for name in clocks}
    simulators: list[Simulator] = []
    runs: list[Raced] = []
    target = Target(drop=points / 100 * task.full_scale)
    for _ in task.data["rank"]:  # every file once, so that all loops find them in the page cache
        pass

    def race() -> Iterator[None]:
        for _ in range(races):
            runs.append(raced(task, source, everything, target, signal="sqnr", memory=None))
            yield

    some = units[:: max(fused_every, 1)]
    with tempfile.TemporaryDirectory() as folder:
        exact = exact_steps(
            source, units, task, clocks["exact"], scores["exact"], Path(folder), None, simulators
        )
        interleaved(
            (len(units), naive_steps(model, units, task, clocks["naive"], scores["naive"])),
            (
                len(some),
                naive_steps(model, some, task, clocks["fused"], scores["fused"], fused=True),
            ),
            (len(task.data["rank"]) + 1, exact),
            (races, race()),
        )
        base = evaluated(
            model, edited(model, None), task, Clock(NoDevice()), Path(folder), fused=False
        )
    with clocks["exact"].on("wall"):
        rank_effects(
            units, [scores["exact"][unit.name] for unit in units], base, task.aggregate, "disable"
        )
    return _numbers(task, len(everything), units, clocks, scores, runs, simulators[0])


def _numbers(
    task: Task,
    operations: int,
    units: Sequence[Unit],
    clocks: dict[str, Clock],
    scores: dict[str, dict[str, Scores]],
    runs: Sequence[Raced],
    simulator: Simulator,
) -> dict[str, Any]:
    metrics = {
        name: {unit: task.aggregate(found) for unit, found in by.items()}
        for name, by in scores.items()
    }
    apart = max(abs(metrics["naive"][unit.name] - metrics["exact"][unit.name]) for unit in units)
    fused_apart = max(
        abs(value - metrics["naive"][unit]) for unit, value in metrics["fused"].items()
    )
    seconds = {name: dict(clock.seconds) for name, clock in clocks.items()}
    scale, setup = operations / len(units), seconds["exact"]["setup"]
    naive, exact = (
        seconds["naive"]["wall"] * scale,
        setup + (seconds["exact"]["wall"] - setup) * scale,
    )
    raced_s = float(np.mean([run.seconds for run in runs]))
    return {
        "operations": operations,
        "measured_operations": len(units),
        "samples": sum(batch_size(inputs) for inputs, _ in task.data["rank"]),
        "simulator": simulator.name,
        "reason": simulator.reason,
        "naive_s": naive,
        "exact_s": exact,
        "raced_s": raced_s,
        "exact_times": naive / exact,
        "raced_times": naive / raced_s,
        "fused_s_per_operation": seconds["fused"]["wall"] / len(scores["fused"]),
        "naive_s_per_operation": naive / operations,
        "fused_operations": len(scores["fused"]),
        "fused_metric_difference": fused_apart,
        "metrics_equal": apart == 0,
        "scores_equal": all(
            np.array_equal(scores["naive"][u.name], scores["exact"][u.name]) for u in units
        ),
        "seconds": seconds,
        "raced_runs": [
            {"seconds": run.seconds, "setup_s": run.setup_s, "samples": run.samples,
             "skip": run.plan.skip,
             "met": run.plan.met}
            for run in runs
        ],
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    fused = result["fused_s_per_operation"]
    rows = [
        ("", "naive loop", "exact scan", "raced scan + plan"),
        ("---", "---", "---", "---"),
        ("wall, s", *(f"{result[key]:.1f}" for key in ("naive_s", "exact_s", "raced_s"))),
        (
            "naive loop takes times as long",
            "1",
            f"{result['exact_times']:.2f}",
            f"{result['raced_times']:.2f}",
        ),
        (
            "scores equal to the naive loop's, bit for bit",
            "",
            "yes" if result["scores_equal"] else "NO",
            "",
        ),
        (
            "operations skipped by the plan",
            "",
            "",
            ", ".join(str(len(run["skip"])) for run in result["raced_runs"]),
        ),
    ]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    count = result["measured_operations"]
    if count == result["operations"]:
        measured = "The naive loop and the exact scan were measured on all operations."
    else:
        measured = (
            f"The naive loop and the exact scan were measured on {count} operations, spread evenly "
            f"over the file, and their times computed for all {result['operations']} from those "
            f"({result['seconds']['naive']['wall']:.1f} s and "
            f"{result['seconds']['exact']['wall']:.1f} s, "
            f"{result['seconds']['exact']['setup']:.1f} s of it setup that is paid once); the "
            "raced scan was measured whole."
        )
    machine = ", ".join(
        f"{key} {result['environment'][key]}" for key in ("cpu", "usable cores", "load")
    )
    return (
        f"# {result['file']}: {result['operations']} operations, {result['samples']} "
        f"samples\n\n{drawn}\n\n"
        f"{measured}\n\nA naive evaluation takes {result['naive_s_per_operation']:.2f} s per "
        "operation; with ONNX Runtime's default "
        f"optimizations, measured on {result['fused_operations']} operations, {fused:.2f} s, and "
        "the metric of one then "
        f"differs by up to {result['fused_metric_difference']:.4f}.\n\nCommand: "
        f"{result['command']}\n\nMachine: {machine}\n"
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description="Time a naive scan of a Q/DQ file, the exact scan and a raced one."
    )
    parser.add_argument("--file", required=True, type=Path)
    parser.add_argument("--float-model", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--samples", type=int, help="of the largest split; all by default")
    parser.add_argument(
        "--points", type=float, default=1.0, help="largest loss of the raced plan, in points"
    )
    parser.add_argument("--races", type=int, default=1)
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="of the operations, in the naive loop and the exact scan",
    )
    parser.add_argument("--fused-every", type=int, default=20, help="of those")
    parser.add_argument(
        "--json", type=Path, help="file for all numbers; a table goes beside it, as .md"
    )
    given = parser.parse_args(arguments)
    before = environment()  # the load that other work puts on the machine, not this benchmark
    task = first(onnx_task(given.file, given.data, float_path=given.float_model), given.samples)
    start = time.perf_counter()
    result = {
        "command": shlex.join(["python", "benchmarks/onnx_scan.py", *arguments]),
        "file": given.file.name,
        "environment": before,
        **benchmark(task, given.points, given.every, given.fused_every, given.races),
        "total_s": time.perf_counter() - start,
    }
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        given.json.with_suffix(".md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main(sys.argv[1:])
