"""Turns a canonical Q/DQ file into one that is fast and correct in one runtime."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import format_of
from sensitivity.records import FP8

LowerTarget = Literal["tensorrt", "openvino", "onnxruntime"]
TARGETS: dict[str, str] = {
    "tensorrt": "sensitivity.exporters.lower_tensorrt",
    "openvino": "sensitivity.exporters.lower_openvino",
    "onnxruntime": "sensitivity.exporters.lower_onnxruntime",
}


def lower_file(canonical: Path, target: LowerTarget, out: Path) -> Path:
    """Write the canonical file, lowered for one runtime, to `out`. Its metadata names the runtime
    (`sensitivity.lowered`).

    - tensorrt: FP16 through types in the graph, opset 19, for strongly typed TensorRT 10 and 11
      (8.6 takes the canonical file).
    - openvino: uint8 activations on the same grid; tensors that are never negative are clipped
      later.
    - onnxruntime: more is quantized, and numbers change a little.

    Raises ExportError for an unknown target, for a file that is already lowered, and for one in
    another format than INT8; OnnxFileError for a file that cannot be read; WriteError if `out`
    cannot be written.
    """
    if target not in TARGETS:
        raise ExportError(f"Expected one of {', '.join(TARGETS)} to export for, got {target!r}.")
    model = load_model(canonical)
    before = model.metadata_props.get("sensitivity.lowered")
    if before is not None:
        raise ExportError(
            f"Expected a canonical file to lower, got {canonical.name}, which is lowered for "
            f"{before} already."
        )
    qdq.check_scales(model, canonical.name)
    _check_formats(model, canonical.name, target)
    lowered = importlib.import_module(TARGETS[target]).lower(model)
    lowered.metadata_props["sensitivity.lowered"] = target
    return save(lowered, out)


def _check_formats(model: ir.Model, name: str, target: str) -> None:
    """Raise ExportError if a pair has another type than INT8, or for TensorRT FP8: the passes are
    made for kernels of 8 bits."""
    taken = {"INT8", FP8} if target == "tensorrt" else {"INT8"}
    formats = {format_of(pair) for pair in qdq.pairs(model.graph)} - taken
    if formats:
        raise ExportError(
            f"Expected a file in INT8 to lower for {target}, got {' and '.join(sorted(formats))} "
            f"in {name}; give the runtime this file as it is."
        )
