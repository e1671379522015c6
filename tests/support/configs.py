"""Exported models, plans for them, and other tools that apply the settings written from a plan."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from sensitivity.exporters.configs.base import Config, NamedPlan
from sensitivity.exporters.configs.operations import operations_of, quantized_inputs
from sensitivity.exporters.torch_model import export_files
from sensitivity.quantizers.base import layers
from sensitivity.quantizers.torch.modelopt import ModelOptModel
from support import models


@dataclass(frozen=True)
class Exported:
    """A ModelOpt model and its float file, with an input of that."""

    source: ModelOptModel
    plan: NamedPlan
    file: Path
    inputs: np.ndarray

    def without(self, skip: Collection[str], wide: Collection[str] = ()) -> NamedPlan:
        """Another plan for the same model. skip, wide: names of the layers that it leaves out, and
        of those with 16-bit activations, each that of its operation."""
        operations = tuple(
            replace(
                each,
                plan=frozenset() if each.name in skip else each.int8,
                wide=each.int8 - each.constants if each.name in wide else frozenset(),
            )
            for each in self.plan.operations
        )
        quantizers = tuple(
            replace(each, bits=16, format="INT16")
            if each.layer in wide and each.role != "weight"
            else each
            for each in self.source.quantizers
        )
        left_out = frozenset(each.name for each in quantizers if each.layer in skip)
        return NamedPlan(operations, quantizers, left_out)


def exported(
    folder: Path, build: Callable[[], Any], inputs: torch.Tensor, skip: Collection[str] = ()
) -> Exported:
    """A seeded model, quantized by ModelOpt and exported with these layers left out."""
    source = ModelOptModel(models.quantized(models.seeded(build), inputs))
    files = export_files(
        source, inputs, layers(source.quantizers), list(skip), folder, fingerprint="test"
    )
    left_out = frozenset(each.name for each in source.quantizers if each.layer in skip)
    plan = NamedPlan(operations_of(files), source.quantizers, left_out)
    return Exported(source, plan, files["float"], inputs.numpy())


def in_int8(file: Path, plan: NamedPlan) -> set[str]:
    """The operations of which a tool's file quantizes all inputs that the INT8 file does."""
    found: Mapping[str, frozenset[int]] = quantized_inputs(file)
    return {
        each.name
        for each in plan.operations
        if each.int8 and each.int8 <= found.get(each.name, frozenset())
    }


def widths(file: Path) -> dict[str, dict[int, int]]:
    """Operation -> index of an input -> bits of the DequantizeLinear before it, without biases."""
    graph = onnx.load(file).graph
    made_by = {node.output[0]: node for node in graph.node}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: dict[str, dict[int, int]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            before = made_by.get(name)
            if before is None or before.op_type != "DequantizeLinear":
                continue
            bits = 8 * constants[before.input[2]].itemsize
            if bits < 32 and node.op_type != "QuantizeLinear":
                found.setdefault(node.name, {})[index] = bits
    return found


class Reader:
    """Calibration data for ONNX Runtime: one batch."""

    def __init__(self, file: Path, inputs: np.ndarray) -> None:
        self.batches = iter([{onnx.load(file).graph.input[0].name: inputs}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def apply_config(model: Exported, name: str, config: Config, out: Path) -> Path:
    """The file that a tool makes of the float file with these settings.

    name: that of `--config`.
    """
    return APPLY[name](model.file, model.inputs, json.loads(config.text), out)


def apply_ort(file: Path, inputs: np.ndarray, settings: dict[str, Any], out: Path) -> Path:
    """ONNX Runtime, as the settings say."""
    from onnxruntime.quantization import quantize_static

    quantize_static(file, out, Reader(file, inputs), **settings)
    return out


def apply_as_printed(file: Path, inputs: np.ndarray, config: Config, folder: Path) -> Path:
    """What ONNX Runtime makes of the float file with the line that the command prints."""
    from onnxruntime.quantization import QuantType, quantize_static

    folder.mkdir(exist_ok=True)
    shutil.copy(file, folder / "model.float.onnx")
    (folder / "config.ort.json").write_text(config.text)
    names = {
        "quantize_static": quantize_static,
        "QuantType": QuantType,
        "json": json,
        "reader": Reader(file, inputs),
    }
    with contextlib.chdir(folder):
        exec(config.apply, names)
    return folder / "model.ort.onnx"


def apply_modelopt_onnx(
    file: Path, inputs: np.ndarray, settings: dict[str, Any], out: Path
) -> Path:
    """ModelOpt ONNX, on the CPU."""
    from modelopt.onnx.quantization import quantize

    quantize(
        str(file),
        calibration_data={onnx.load(file).graph.input[0].name: inputs},
        calibration_eps=["cpu"],
        output_path=str(out),
        high_precision_dtype="fp32",
        log_level="ERROR",
        **settings,
    )
    return out


def apply_nncf(file: Path, inputs: np.ndarray, settings: dict[str, Any], out: Path) -> Path:
    """NNCF, on the ONNX file."""
    import nncf

    model = onnx.load(file)
    data = nncf.Dataset([{model.graph.input[0].name: inputs}])
    scope = nncf.IgnoredScope(**settings)
    onnx.save(nncf.quantize(model, data, ignored_scope=scope, subset_size=1), out)
    return out


def apply_quark(file: Path, inputs: np.ndarray, settings: list[str], out: Path) -> Path:
    """AMD Quark, with the rest of its settings as it has them."""
    from quark.onnx import Int8Spec, ModelQuantizer, QConfig, QLayerConfig

    layer = QLayerConfig(activation=Int8Spec(), weight=Int8Spec())
    config = QConfig(global_config=layer, exclude=settings)
    with contextlib.chdir(out.parent):  # where it leaves a table of its own
        ModelQuantizer(config).quantize_model(str(file), str(out), Reader(file, inputs))
    return out


def aimet_rounds(file: Path, settings: list[str]) -> set[str]:
    """The tensors that AIMET quantizes with these settings. Raises KeyError for one that it does
    not know."""
    from aimet_onnx import QuantizationSimModel

    sim = QuantizationSimModel(onnx.load(file))
    for name in settings:
        _ = sim.qc_quantize_op_dict[name]
    for name, quantizer in sim.qc_quantize_op_dict.items():
        quantizer.enabled = name in settings
    return {name for name, quantizer in sim.qc_quantize_op_dict.items() if quantizer.enabled}


APPLY = {
    "ort": apply_ort,
    "modelopt-onnx": apply_modelopt_onnx,
    "nncf": apply_nncf,
    "quark": apply_quark,
}
MODULES = {
    "ort": "onnxruntime",
    "modelopt": "modelopt",
    "modelopt-onnx": "modelopt.onnx",
    "nncf": "nncf",
    "quark": "quark.onnx",
    "aimet": "aimet_onnx",
    "litert": "ai_edge_quantizer",
    "polygraphy": "polygraphy",
}
"""Tool -> what must be importable for it."""


def problem_of(name: str) -> str | None:
    """The reason why a tool cannot be applied here; None if it can."""
    try:
        importlib.import_module(MODULES[name])
    except ImportError as error:
        return " ".join(str(error).split())
    return None
