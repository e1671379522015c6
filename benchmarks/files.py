"""How fast our INT8 files are compared with those of each runtime's own tool, timed in turn in one
process.

    python benchmarks/files.py --nncf PYTHON --json benchmarks/results/files.json

In ONNX Runtime the tool is its `quantize_static`, after its own pre-processing, with the types
that its documentation advises for this processor (uint8 activations, int8 weights). In OpenVINO it
is `nncf.quantize`, run by the Python at PYTHON, which has nncf and openvino (3.4.0 and 2026.4.1
here). Both tools get the float file of our files, and the same calibration samples. YOLOX-nano is a
float ONNX file: ours are what `sensitivity run` makes of it for each runtime. Weights are random
except those of YOLOv8n and YOLOX-nano, which need SENSITIVITY_ASSETS, since times do not depend on
the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnx
import torch
from files_models import EfficientNet, MobileNetV2, ViT
from numpy.typing import NDArray
from runtimes_models import INT8, ResNet18, Subject, with_residuals, yolov8n
from torch import nn

from sensitivity import optional
from sensitivity.config import QuantizeFor
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.torch_model import export_files
from sensitivity.opened import quantized_model
from sensitivity.quantize.file import METHOD
from sensitivity.quantize.prepare import FIRST_OPSET, float_file, prepared
from sensitivity.quantize.ranges import ranges
from sensitivity.quantize.rules import RULES
from sensitivity.quantize.static import quantized
from sensitivity.quantizers.base import layers
from sensitivity.registry import load
from sensitivity.runtimes.openvino import OpenVinoEngine
from sensitivity.timing.environment import environment
from sensitivity.timing.protocol import Variant, interleaved
from sensitivity.timing.ratio import median_ratio
from sensitivity.units.placement import scale_groups, unified_scales

ROOT = Path(__file__).parents[1]
Runtime = Literal["onnxruntime", "openvino"]
PEERS: dict[Runtime, str] = {"onnxruntime": "quantize_static", "openvino": "nncf.quantize"}
WARM_UP = 5
THREADS = 2
SAMPLES = 8
"""Calibration samples."""

NNCF = """
import sys, numpy, nncf, openvino
float_file, samples, out = sys.argv[1:]
model = openvino.Core().read_model(float_file)
name = model.inputs[0].any_name
data = [{name: sample[None]} for sample in numpy.load(samples)]
made = nncf.quantize(model, nncf.Dataset(data), subset_size=len(data))
openvino.save_model(made, out, compress_to_fp16=False)
"""
"""The program that runs NNCF in a separate process, since it needs other versions of packages that
this project uses."""


@dataclass(frozen=True)
class Net:
    """A network to time.

    size: side of its square input in pixels.
    """

    build: Callable[[], nn.Module]
    size: int


def leaky_mobilenet() -> nn.Module:
    sys.path.insert(0, str(ROOT / "examples/01_mobilenet"))
    from mobilenet import MobileNet

    return MobileNet()


NETS = {
    "ResNet18": Net(ResNet18, 224),
    "MobileNetV1 x0.25 (LeakyReLU)": Net(leaky_mobilenet, 224),
    "MobileNetV2 (ReLU6)": Net(MobileNetV2, 160),
    "EfficientNet-like (SiLU, SE)": Net(EfficientNet, 160),
    "ViT, 6 blocks of 192": Net(ViT, 96),
}
YOLO, YOLOX = "YOLOv8n", "YOLOX-nano"
ROWS = (*NETS, YOLO, YOLOX)


def subject_of(name: str) -> Subject:
    """The calibrated model of a row."""
    if name == YOLO:
        return yolov8n(0)
    import modelopt.torch.quantization as mtq

    net = NETS[name]
    torch.manual_seed(0)
    model = net.build()
    batches = [torch.randn(1, 3, net.size, net.size) for _ in range(SAMPLES)]
    with torch.no_grad():
        model.train()(torch.cat(batches))  # statistics that belong to the weights
        made = mtq.quantize(model.eval(), INT8, lambda model: [model(batch) for batch in batches])
    return with_residuals(Subject(name, quantized_model(made), batches))


@dataclass(frozen=True)
class Files:
    """What is timed of a network, with nothing left out.

    samples: float32[SAMPLES, 3, side, side], what it was calibrated on.
    ours: target -> our file for it.
    """

    unquantized: Path
    canonical: Path
    samples: NDArray[np.float32]
    ours: Mapping[Runtime, Path]


def files_of(name: str, folder: Path) -> Files:
    """The files of a row."""
    if name == YOLOX:
        return onnx_files(
            Path(os.environ["SENSITIVITY_ASSETS"]) / "weights/yolox_nano.onnx", folder
        )
    subject = subject_of(name)
    source, units = subject.source, layers(subject.source.quantizers)
    example = subject.calibration[0]
    with unified_scales(source, scale_groups(source, example)):
        made = export_files(
            source,
            example,
            units,
            [],
            folder,
            fingerprint=source.fingerprint(),
            calibration=subject.calibration,
        )
    samples = np.concatenate([batch.numpy() for batch in subject.calibration])[:SAMPLES]
    ours = {
        target: lower_file(made["int8"], target, folder / f"ours.{target}.onnx") for target in PEERS
    }
    return Files(made["float"], made["int8"], samples, ours)


def onnx_files(unquantized: Path, folder: Path) -> Files:
    """The files that are made of a float ONNX file: for each runtime that by its own rules, and as
    the canonical one that by the rules of TensorRT. The peers get the file itself, in opset 13,
    which they need for a scale per channel."""
    file = float_file(unquantized, {})
    (port,) = file.get_inputs()
    shape = (SAMPLES, *port.shape[1:])
    samples = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    batches = [{port.name: sample[None]} for sample in samples]
    targets: tuple[QuantizeFor, ...] = (*PEERS, "tensorrt")
    made: dict[QuantizeFor, Path] = {}
    for target in targets:
        rules, model = RULES[target], prepared(file, batches[0])
        found = ranges(model, batches, METHOD, symmetric=rules.signed)
        made[target] = folder / f"ours.{target}.onnx"
        onnx.save(quantized(model, found, rules, unquantized.name), made[target])
    ready = folder / "float.onnx"
    onnx.save(onnx.version_converter.convert_version(file.model, FIRST_OPSET), ready)
    return Files(ready, made["tensorrt"], samples, {target: made[target] for target in PEERS})


class NncfEngine(OpenVinoEngine):
    """An engine of the file that NNCF makes, which is in OpenVINO's own format, with the settings
    of an engine of an ONNX file."""

    def __init__(self, file: Path, unquantized: Path) -> None:
        super().__init__(unquantized, THREADS, "fp32")
        self._compiled = optional.openvino.Core().compile_model(str(file), "CPU", self._settings)
        self._request = self._compiled.create_infer_request()


def input_of(file: Path) -> str:
    """The name of the only input."""
    (port,) = onnx.load(file, load_external_data=False).graph.input
    return str(port.name)


def peer_file(target: Runtime, files: Files, folder: Path, nncf: str | None) -> Path:
    """The file that the runtime's own tool makes of the float file."""
    unquantized, name = files.unquantized, input_of(files.unquantized)
    if target == "openvino":
        out, samples = folder / "peer.xml", folder / "samples.npy"
        np.save(samples, files.samples)
        words = [nncf or sys.executable, "-c", NNCF, *map(str, (unquantized, samples, out))]
        done = subprocess.run(words, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"nncf failed: {done.stderr[-800:]}")
        return out
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(files.samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._left, None)
            return None if sample is None else {name: sample[None]}

    ready, out = folder / "prepared.onnx", folder / "peer.onnx"
    logging.disable(logging.WARNING)
    quant_pre_process(str(unquantized), str(ready), skip_symbolic_shape=True)
    quantize_static(
        ready,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return out


def rows_of(name: str, folder: Path, nncf: str | None, rounds: int) -> list[dict[str, Any]]:
    """One row for each runtime, in milliseconds per sample on two threads, medians over rounds."""
    files = files_of(name, folder)
    inputs = {input_of(files.unquantized): files.samples[:1]}
    rows = []
    for target, peer in PEERS.items():
        runtime = load("runtimes", target)()
        timed = {
            "float": files.unquantized,
            "peer": peer_file(target, files, folder, nncf),
            "canonical": files.canonical,
            "ours": files.ours[target],
        }
        engines = {
            cast("Variant", each): NncfEngine(file, files.unquantized)
            if file.suffix == ".xml"
            else runtime.build(file, threads=THREADS)
            for each, file in timed.items()
        }
        found = interleaved(engines, inputs, rounds=rounds, warmup=WARM_UP, per_turn=1)
        times = {str(each): ms for each, ms in found.items()}
        ratio = median_ratio(times["peer"], times["ours"])
        row = {"model": name, "runtime": target, "peer": peer}
        row |= {f"{each}_ms": float(np.median(ms)) for each, ms in times.items()}
        rows.append(row | {"ratio": ratio.value, "low": ratio.low, "high": ratio.high})
        print(json.dumps(rows[-1]), flush=True)
        for engine in engines.values():
            engine.close()
    return rows


def markdown(result: dict[str, Any]) -> str:
    heads = ("model", "runtime", "float", "peer", "canonical", "ours", "ours against the peer")
    lines = [
        f"| {row['model']} | {row['runtime']} | "
        + "".join(f"{row[f'{each}_ms']:.2f} | " for each in ("float", "peer", "canonical", "ours"))
        + f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] |"
        for row in result["rows"]
    ]
    machine = result["environment"]
    return "\n".join([
        "# INT8 files beside those of each runtime's own tool", "",
        f"`{result['command']}`",
        f"Load {result['load']:.1f} at the start.", "",
        "Milliseconds of one sample on two threads (medians), all layers in INT8. The last column",
        "says how many times as fast as the peer's our file for that runtime is.", "",
        "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *lines, "",
        ", ".join(f"{key} {machine.get(key)}" for key in ("cpu", "onnxruntime", "openvino")) + ".",
        "",
    ])  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Time our files beside each runtime's tool's.")
    parser.add_argument("--json", type=Path, required=True, help="a table goes beside it, as .md")
    parser.add_argument("--nncf", help="a Python that has nncf and openvino")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--models", nargs="+", choices=ROWS, default=ROWS)
    given = parser.parse_args(arguments)
    before = json.loads(given.json.read_text()) if given.json.exists() else {}
    rows = [row for row in before.get("rows", []) if row["model"] not in given.models]
    load = os.getloadavg()[0]
    for name in given.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(name, Path(folder), given.nncf, given.rounds)
        command = shlex.join(["python", "benchmarks/files.py", *arguments])
        result = {"command": command, "environment": environment(), "load": load, "rows": rows}
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        given.json.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main(sys.argv[1:])
