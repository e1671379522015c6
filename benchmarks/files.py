"""How fast our INT8 files are compared with those of each runtime's own tool, timed in turn in one
process.

    python benchmarks/files.py --nncf PYTHON --json benchmarks/results/files.json

In ONNX Runtime the tool is its `quantize_static`, after its own pre-processing, with the types
that its documentation advises for this processor (uint8 activations, int8 weights). In OpenVINO it
is `nncf.quantize`, run by the Python at PYTHON, which has nncf and openvino (3.4.0 and 2026.4.1
here). Both tools get the float file from which our files were exported, and the same calibration
samples. Weights are random except those of YOLOv8n, which needs SENSITIVITY_ASSETS, since times do
not depend on the weights.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from files_models import EfficientNet, MobileNetV2, ViT
from runtimes_models import INT8, ResNet18, Subject, with_residuals, yolov8n
from torch import nn

from sensitivity import optional
from sensitivity.exporters.lower import LowerTarget, lower_file
from sensitivity.exporters.torch_model import export_files
from sensitivity.opened import quantized_model
from sensitivity.quantizers.base import layers
from sensitivity.registry import load
from sensitivity.runtimes.openvino import OpenVinoEngine
from sensitivity.timing.environment import environment
from sensitivity.timing.protocol import Variant, interleaved
from sensitivity.timing.ratio import median_ratio
from sensitivity.units.placement import scale_groups, unified_scales

ROOT = Path(__file__).parents[1]
PEERS: dict[LowerTarget, str] = {"onnxruntime": "quantize_static", "openvino": "nncf.quantize"}
WARM_UP = 5
THREADS = 2
SAMPLES = 8
"""Calibration samples."""

NNCF = """
import sys, numpy, nncf, openvino
float_file, samples, out = sys.argv[1:]
data = [{"input": sample[None]} for sample in numpy.load(samples)]
model = openvino.Core().read_model(float_file)
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
YOLO = "YOLOv8n"


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


def our_files(subject: Subject, folder: Path) -> dict[str, Path]:
    """Variant -> canonical file, with nothing left out."""
    source, units = subject.source, layers(subject.source.quantizers)
    example = subject.calibration[0]
    with unified_scales(source, scale_groups(source, example)):
        return export_files(
            source,
            example,
            units,
            [],
            folder,
            fingerprint=source.fingerprint(),
            calibration=subject.calibration,
        )


class NncfEngine(OpenVinoEngine):
    """An engine of the file that NNCF makes, which is in OpenVINO's own format, with the settings
    of an engine of an ONNX file."""

    def __init__(self, file: Path, unquantized: Path) -> None:
        super().__init__(unquantized, THREADS, "fp32")
        self._compiled = optional.openvino.Core().compile_model(str(file), "CPU", self._settings)
        self._request = self._compiled.create_infer_request()


def peer_file(target: LowerTarget, unquantized: Path, samples: Path, nncf: str | None) -> Path:
    """The file that the runtime's own tool makes of the float file."""
    if target == "openvino":
        out = unquantized.with_name("peer.xml")
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
            self._left = iter(np.load(samples))

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self._left, None)
            return None if sample is None else {"input": sample[None]}

    prepared, out = unquantized.with_name("prepared.onnx"), unquantized.with_name("peer.onnx")
    logging.disable(logging.WARNING)
    quant_pre_process(str(unquantized), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        prepared,
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
    subject = subject_of(name)
    files = our_files(subject, folder)
    samples = folder / "samples.npy"
    stacked = np.concatenate([batch.numpy() for batch in subject.calibration])[:SAMPLES]
    np.save(samples, stacked)
    rows = []
    for target, peer in PEERS.items():
        runtime = load("runtimes", target)()
        timed = {
            "float": files["float"],
            "peer": peer_file(target, files["float"], samples, nncf),
            "canonical": files["int8"],
            "ours": lower_file(files["int8"], target, folder / f"ours.{target}.onnx"),
        }
        engines = {
            cast("Variant", each): NncfEngine(file, files["float"])
            if file.suffix == ".xml"
            else runtime.build(file, threads=THREADS)
            for each, file in timed.items()
        }
        inputs = {"input": stacked[:1]}
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
    parser.add_argument("--models", nargs="+", choices=[*NETS, YOLO], default=[*NETS, YOLO])
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
