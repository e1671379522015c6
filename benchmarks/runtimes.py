"""How fast the exported files run against float in the same runtime, and whether their values are
right.

    python benchmarks/runtimes.py --json benchmarks/results/runtimes.json

README.md beside this file says what each number means. YOLOv8n needs SENSITIVITY_ASSETS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from runtimes_models import SUBJECTS, Subject
from runtimes_table import markdown, show

from sensitivity.exporters.agreement import relative_rms
from sensitivity.exporters.evaluate import evaluate_file
from sensitivity.exporters.example import Example
from sensitivity.exporters.half_baseline import half_file
from sensitivity.exporters.lower import LowerTarget, lower_file
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.quantizers.base import layers
from sensitivity.registry import load
from sensitivity.runtimes.base import Runtime, Tensors
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.signals.fisher import fisher
from sensitivity.timing.environment import environment
from sensitivity.timing.explain import not_in
from sensitivity.timing.profile import profile_file
from sensitivity.timing.protocol import Variant, bench_files
from sensitivity.units.placement import scale_groups, unified_scales

RUNTIMES: tuple[LowerTarget, ...] = ("onnxruntime", "openvino")
PLANS = {"skip-quarter": 0.25, "skip-half": 0.5}
"""Partial plans: the share of the layers that they leave unquantized, beginning with those that a
cheap signal ranks first."""

WARM_UP = 5
PROFILED = 3


@dataclass(frozen=True)
class Settings:
    """What to time.

    accuracy: images for the metric; 0 for none.
    """

    rounds: int = 200
    threads: int = 2
    accuracy: int = 40


def benchmark(subject: Subject, settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """One row for each file and runtime, as JSON takes them; see README.md.

    folder: where the files are written.
    """
    canonical = canonical_files(subject, folder)
    rows = []
    for name in RUNTIMES:
        rows += runtime_rows(subject, canonical, name, settings)
    return rows


def canonical_files(subject: Subject, folder: Path) -> dict[str, Path]:
    """Variant -> canonical file: "float", "int8", and the two plans."""
    source, units = subject.source, layers(subject.source.quantizers)
    weighted = {quantizer.layer for quantizer in source.quantizers if quantizer.role == "weight"}
    signal = fisher(source, units, [(subject.calibration[0], None)])
    ranked = sorted(weighted, key=signal.__getitem__, reverse=True)
    found: dict[str, Path] = {}
    with unified_scales(source, scale_groups(source, subject.calibration[0])):
        for plan, share in PLANS.items():
            files = export_files(
                source,
                subject.calibration[0],
                units,
                ranked[: round(share * len(ranked))],
                folder / plan,
                fingerprint=source.fingerprint(),
                calibration=subject.calibration,
            )
            found = {
                "float": files["float"],
                "int8": files["int8"],
                **found,
                plan: files["partial"],
            }
    return found


def runtime_rows(
    subject: Subject, canonical: Mapping[str, Path], target: LowerTarget, settings: Settings
) -> list[dict[str, Any]]:
    """The rows of one model in one runtime: float, the canonical file, and each quantized file
    lowered for the runtime."""
    runtime: Runtime = load("runtimes", target)()
    inputs = {"input": subject.calibration[0][:1].numpy()}
    example = Example(inputs)
    origins = {"float": "float", "fp16": "float", "canonical int8": "int8"}
    half = half_file(canonical["float"], canonical["float"].with_name("model.fp16.onnx"))
    files = {"float": canonical["float"], "fp16": half, "canonical int8": canonical["int8"]}
    for variant in ("int8", *PLANS):
        origins[variant] = variant
        files[variant] = lower_file(
            canonical[variant], target, canonical[variant].with_suffix(f".{target}.onnx")
        )
        check_lowering(canonical[variant], files[variant], canonical["float"], example)
    timings = bench_files(
        cast("Mapping[Variant, Path]", files),
        runtime,
        inputs,
        threads=settings.threads,
        rounds=settings.rounds,
        warmup=WARM_UP,
    )
    return [
        {
            "model": subject.name,
            "file": timing.variant,
            "runtime": runtime.name,
            "precision": timing.precision
            if origins[timing.variant] == "float"
            else f"int8, rest {timing.precision}",
            "median_ms": timing.median_ms,
            "p95_ms": timing.p95_ms,
            "ratio_vs_float": timing.ratio.value,
            "low": timing.ratio.low,
            "high": timing.ratio.high,
            **_distances(
                file, canonical[origins[timing.variant]], canonical["float"], runtime, inputs
            ),
            **_precisions(file, runtime, inputs, settings.threads),
            "metric": _metric(file, subject, runtime),
        }
        for timing, file in zip(timings, files.values(), strict=True)
    ]


def _distances(
    file: Path, canonical: Path, unquantized: Path, runtime: Runtime, inputs: Tensors
) -> dict[str, float]:
    """The distances of the file's outputs in this runtime, and of the float file's outputs, from
    the canonical file's reference numerics."""
    reference = OnnxRuntime(optimize=False)
    expected, plain = (
        _outputs(canonical, reference, inputs),
        _outputs(unquantized, reference, inputs),
    )
    return {
        "rms_vs_canonical": relative_rms(_outputs(file, runtime, inputs), expected, plain),
        "quantization_rms": relative_rms(plain, expected, plain),
    }


def _outputs(file: Path, runtime: Runtime, inputs: Tensors) -> list[np.ndarray]:
    engine = runtime.build(file)
    try:
        return [np.asarray(output, np.float64) for output in engine.run(inputs).values()]
    finally:
        engine.close()


def _precisions(file: Path, runtime: Runtime, inputs: Tensors, threads: int) -> dict[str, int]:
    """The number of convolutions and matrix products that are quantized in the file, and how many
    of them ran in INT8."""
    profile = profile_file(file, runtime, inputs, threads=threads, repeats=PROFILED)
    missed = not_in("int8", profile.runs, profile.kept)
    return {"quantized_layers": len(profile.kept), "ran_in_int8": len(profile.kept) - len(missed)}


def _metric(file: Path, subject: Subject, runtime: Runtime) -> float | None:
    judge = subject.judge
    if judge is None:
        return None
    return evaluate_file(file, judge.batches, judge.score, judge.aggregate, runtime=runtime)[0]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description="Time exported files against float, each in its runtime."
    )
    parser.add_argument(
        "--json", type=Path, help="file for all numbers; a table goes beside it, as .md"
    )
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument(
        "--rounds", type=int, default=Settings.rounds, help="times that each file is timed"
    )
    parser.add_argument("--threads", type=int, default=Settings.threads, help="of the runtime")
    parser.add_argument(
        "--accuracy", type=int, default=Settings.accuracy, help="images for the metric, 0 for none"
    )
    given = parser.parse_args(arguments)
    settings = Settings(given.rounds, given.threads, given.accuracy)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/runtimes.py", *arguments]),
        # with the load that other work puts on the machine, not this benchmark
        "environment": environment(),
        "threads": settings.threads,
        "rounds": settings.rounds,
        "metric": f"mAP50-95 on {settings.accuracy} COCO images (yolov8n)"
        if settings.accuracy
        else None,
        "rows": [],
    }
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            result["rows"] += benchmark(SUBJECTS[name](settings.accuracy), settings, Path(folder))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        given.json.with_suffix(".md").write_text(markdown(result))
    show(result)


if __name__ == "__main__":
    main(sys.argv[1:])
