"""Whether exported files have the accuracy of the simulated model, from which every plan is chosen.

    python benchmarks/fidelity.py --json benchmarks/results/fidelity.json

The models of `examples/` in full INT8 with shared scales, on all their images: the model with its
quantizers, the canonical file in ONNX Runtime without optimizations, and the files lowered for
OpenVINO and ONNX Runtime in those runtimes. README.md beside this file explains the numbers. Needs
SENSITIVITY_ASSETS. YOLOv8n is at 320 pixels unless YOLOV8N_SIZE gives another size.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from fidelity_forced import forced_shares

from sensitivity.exporters.evaluate import evaluate_file, run
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.simulate import first_samples, outputs_of
from sensitivity.exporters.torch_model import export_files
from sensitivity.exporters.verify import flat, relative_rms
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel, layers
from sensitivity.records import Scores
from sensitivity.runtimes.base import Runtime
from sensitivity.runtimes.onnxruntime import OnnxRuntime
from sensitivity.runtimes.openvino import OpenVino
from sensitivity.stats.jackknife import pseudo_values
from sensitivity.stats.paired import paired_effect
from sensitivity.tasks.base import Task
from sensitivity.tasks.load import load_task
from sensitivity.timing.environment import environment
from sensitivity.units.placement import scale_groups, unified_scales

EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = {
    "mobilenet_v1": "01_mobilenet/task.py:all_images",
    "resnet20": "02_resnet20/task.py:all_images",
    "yolov8n": "03_yolov8n/task.py:all_images",
}
RUNTIMES: dict[str, tuple[str, Callable[[], Runtime]]] = {
    "canonical": ("int8", lambda: OnnxRuntime(optimize=False)),
    "openvino": ("int8.openvino", OpenVino),
    "onnxruntime": ("int8.onnxruntime", OnnxRuntime),
}
PIECES_ON = 4
"""Samples on which the pieces of the canonical file are compared; all values of each sample
count."""

COLUMNS = ("model", "file", "runtime", "images", "metric", "difference, "
                                                           "points", "interval", "of INT8's own "
                                                                                 "error",
           "worst piece alone")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The first batches of a task's images, which can be iterated any number of times.

    most: the number of batches; None for all.
    """

    batches: Any
    most: int | None

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return islice(iter(self.batches), self.most)


def benchmark(name: str, most: int | None, folder: Path) -> list[dict[str, Any]]:
    """One row for the simulated model, and one for each file in its runtime, as JSON takes them."""
    task = load_task(str(EXAMPLES / MODELS[name]))
    source, part = quantized_model(task.model), Part(task.data["rank"], most)
    example = next(iter(part))[0]
    with unified_scales(source, scale_groups(source, example)):
        images = (inputs for inputs, _ in part)
        files = export_files(
            source,
            example,
            layers(source.quantizers),
            [],
            folder,
            fingerprint="",
            calibration=images,
        )
        simulated = scores_of(source, task, part)
        expected = flat(outputs_of(source, example, ()))
        pieces = forced_shares(source, files["int8"], first_samples(example, PIECES_ON))
    lower_file(files["int8"], "openvino", folder / "model.int8.openvino.onnx")
    lower_file(files["int8"], "onnxruntime", folder / "model.int8.onnxruntime.onnx")
    plain = outputs_in(OnnxRuntime(optimize=False), files["float"], example)
    own = relative_rms(plain, expected, plain)
    rows = [row(name, "simulated", "torch", task, simulated, simulated, 0.0)]
    for file, (variant, made) in RUNTIMES.items():
        path, runtime = folder / f"model.{variant}.onnx", made()
        _, scores = evaluate_file(path, part, task.score, task.aggregate, runtime=runtime)
        rms = relative_rms(outputs_in(runtime, path, example), expected, plain)
        rows.append(row(name, file, runtime.name, task, simulated, scores, rms / own))
    rows[1] |= {"pieces": len(pieces), "worst_piece": max(pieces.values())}
    return rows


def scores_of(source: QuantizedModel, task: Task, part: Part) -> Scores:
    """The scores of the user's own model with every quantizer on."""
    found = [
        np.asarray(task.score(outputs_of(source, inputs, ()), targets), np.float64)
        for inputs, targets in part
    ]
    return np.concatenate(found)


def outputs_in(runtime: Runtime, file: Path, inputs: Any) -> list[np.ndarray]:
    engine = runtime.build(file)
    try:
        return [np.asarray(output, np.float64) for output in run(engine, inputs).values()]
    finally:
        engine.close()


def row(
    model: str, file: str, runtime: str, task: Task, simulated: Scores, scores: Scores, share: float
) -> dict[str, Any]:
    """One row of the table.

    difference_points: metric of the file minus that of the simulated model, in hundredths of full
        scale, with the 95 % interval for other images.
    share_of_quantization: RMS of the difference of outputs on the first batch, as a fraction of the
        effect of quantization.
    """
    points = 100 / task.full_scale
    effect = paired_effect(*(pseudo_values(each, task.aggregate) for each in (simulated, scores)))
    low, high = (None, None) if scores is simulated else (effect.low, effect.high)
    metric = float(task.aggregate(scores))
    return {
        "model": model,
        "file": file,
        "runtime": runtime,
        "images": len(scores),
        "metric": metric,
        "difference_points": (metric - float(task.aggregate(simulated))) * points,
        "low": None if low is None else low * points,
        "high": None if high is None else high * points,
        "share_of_quantization": share,
    }


def markdown(result: dict[str, Any]) -> str:
    cells = [
        (
            *(
                row["model"],
                row["file"],
                row["runtime"],
                str(row["images"]),
                f"{row['metric']:.4f}",
            ),
            f"{row['difference_points']:+.2f}",
            "" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}",
            f"{row['share_of_quantization']:.1%}",
            f"{row['worst_piece']:.4%}" if "worst_piece" in row else "",
        )
        for row in result["rows"]
    ]
    machine = ", ".join(
        f"{name} {result['environment'][name]}"
        for name in ("cpu", "cpu flags", "onnxruntime", "openvino", "torch", "nvidia-modelopt")
        if name in result["environment"]
    )
    head = (
        "# Accuracy of full INT8: the simulated model, and its files in runtimes\n\nCommand: "
        f"{result['command']}\n\n"
    )
    table = "\n".join(
        f"| {' | '.join(line)} |" for line in [COLUMNS, ("---",) * len(COLUMNS), *cells]
    )
    return f"{head}Machine: {machine}\n\n{table}\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description="Compare the accuracy of exported files with the simulated model's."
    )
    parser.add_argument(
        "--json", type=Path, help="file for all numbers; a table goes beside it, as .md"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batches", type=int, help="of each model's images; all by default")
    given = parser.parse_args(arguments)
    os.environ.setdefault("YOLOV8N_SIZE", "320")  # pixels; 640 takes four times as long
    command = shlex.join(["python", "benchmarks/fidelity.py", *arguments])
    result: dict[str, Any] = {"command": command, "environment": environment(), "rows": []}
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            result["rows"] += benchmark(name, given.batches, Path(folder))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        given.json.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
