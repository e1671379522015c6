"""Whether the same model gets the same ranking from every source.

    SENSITIVITY_ASSETS=... python benchmarks/sources.py --json benchmarks/results/sources.json

It takes about four minutes.

The model is MobileNetV1 x0.25 of examples/01_mobilenet, calibrated on the same 200 images by each
toolkit, with the same kind of grids. Every layer is quantized alone, on the same images. Compared
are the correct answers that are lost, and the noise-to-signal ratio of the outputs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from sensitivity.files import write_whole
from sensitivity.measure.variants import unit_variant
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import QuantizedModel, check_calibrated, layers
from sensitivity.signals.distortion import flat_outputs, sqnr
from sensitivity.simulators.choose import simulator_for
from sensitivity.timing.environment import environment

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples/01_mobilenet"), str(ROOT / "tests")]
SOURCES = ("modelopt", "pytorch_quantization", "pt2e", "onnx_qdq")
COLUMNS = (
    "source",
    "top-1 float",
    "top-1 INT8",
    "costs most",
    "tau by metric",
    "tau by noise",
    "simulator",
    "seconds",
)


def made_by(source: str) -> Callable[[Any], Any]:
    """Calibration batches -> calibrated MobileNet."""
    if source == "onnx_qdq":
        return exported
    if source == "pytorch_quantization":
        # the stand-in, where the toolkit cannot be imported
        importlib.import_module("support.pq_models")
    found: Callable[[Any], Any] = importlib.import_module(
        {"modelopt": "task"}.get(source, f"task_{source}")
    ).calibrated
    return found


def exported(calib: Sequence[tuple[Any, Any]]) -> Any:
    """The Q/DQ file to which ModelOpt's model is exported, read back."""
    from sensitivity.exporters.torch_model import export_files
    from sensitivity.quantizers.onnx.model import OnnxModel

    source = quantized_model(made_by("modelopt")(calib))
    with tempfile.TemporaryDirectory() as folder:
        files = export_files(
            source, calib[0][0][:4], layers(source.quantizers), (), Path(folder), fingerprint=""
        )
        return OnnxModel(files["int8"])


def measured(source: QuantizedModel, batches: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Whether the answer is right, and the noise, for each unit and sample; float and all quantized
    come first."""
    check_calibrated(source.quantizers)
    units, start = layers(source.quantizers), time.monotonic()
    if source.source == "onnx_qdq":
        batches = [(inputs.numpy(), targets) for inputs, targets in batches]
    simulator = simulator_for(source, batches[0][0])
    every = frozenset(quantizer.name for quantizer in source.quantizers)
    variants = [
        every,
        frozenset[str](),
        *(unit_variant(one, source.quantizers, "enable").disabled for one in units),
    ]
    right: list[NDArray[Any]] = []
    noise: list[NDArray[Any]] = []
    for inputs, targets in batches:
        outputs = {
            at: flat_outputs(found)[0].copy() for at, found in simulator.outputs(inputs, variants)
        }
        right.append(
            np.stack([outputs[at].argmax(1) == np.asarray(targets) for at in range(len(variants))])
        )
        noise.append(
            np.stack([sqnr([outputs[0]], [outputs[at]]) for at in range(2, len(variants))])
        )
    top1 = np.concatenate(right, axis=1).mean(1)
    return {
        "units": [unit.name for unit in units],
        "float": float(top1[0]),
        "int8": float(top1[1]),
        "lost": [float(top1[0] - value) for value in top1[2:]],
        "noise": np.concatenate(noise, axis=1).mean(1).tolist(),
        "simulator": f"{simulator.name}: {simulator.reason}",
        "seconds": time.monotonic() - start,
        "warnings": list(source.warnings),
    }


def compared(reference: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Kendall's tau-b of the two rankings, by the metric and by the noise. Both must have the same
    units."""
    assert reference["units"] == other["units"], sorted({*reference["units"]} ^ {*other["units"]})
    return {
        key: float(kendalltau(reference[key], other[key]).statistic) for key in ("lost", "noise")
    }


def table(result: dict[str, Any]) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for name, one in result["sources"].items():
        top = one["units"][int(np.argmax(one["lost"]))]
        taus = (f"{one['tau'][key]:.3f}" for key in ("lost", "noise"))
        rows.append(
            (
                name,
                f"{one['float']:.1%}",
                f"{one['int8']:.1%}",
                top,
                *taus,
                one["simulator"],
                f"{one['seconds']:.1f}",
            )
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    machine = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    title = (
        f"# One model through every source, {result['images']} images, each layer alone quantized"
    )
    return (
        "\n\n".join(
            [title, f"Command: {result['command']}", f"Machine: {machine}", "\n".join(lines)]
        )
        + "\n"
    )


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    settings = parser.parse_args(arguments)
    task = importlib.import_module("task")
    images = task.imagenet()
    calib = list(task.batches(images.take(range(task.CALIBRATION_IMAGES))))
    chosen = images.take(range(0, 1000, 1000 // settings.images)[: settings.images])
    batches = list(task.batches(chosen))
    sources: dict[str, Any] = {}
    for name in settings.sources:
        sources[name] = measured(quantized_model(made_by(name)(calib)), batches)
        sources[name]["tau"] = compared(next(iter(sources.values())), sources[name])
    command = " ".join(["python benchmarks/sources.py", *arguments])
    result = {
        "command": command,
        "environment": environment(),
        "images": settings.images,
        "sources": sources,
    }
    print(table(result))
    if settings.json:
        write_whole(settings.json, json.dumps(result, indent=1).encode())
        write_whole(settings.json.with_suffix(".md"), table(result).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
