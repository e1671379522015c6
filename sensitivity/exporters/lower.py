"""Turns a canonical Q/DQ file into one that is fast and correct in one runtime."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.uses import format_of
from sensitivity.records import FP8

LowerTarget = Literal["tensorrt", "openvino", "onnxruntime", "qnn"]
TARGETS: dict[str, str] = {
    "tensorrt": "sensitivity.exporters.lower_tensorrt",
    "openvino": "sensitivity.exporters.lower_openvino",
    "onnxruntime": "sensitivity.exporters.lower_onnxruntime",
    "qnn": "sensitivity.exporters.lower_qnn",
}
TAKEN = {
    "tensorrt": {"INT8", FP8},
    "onnxruntime": {"INT8", "INT32"},
    "qnn": {"INT8", "INT16", "INT32"},
}
"""Target -> formats that its passes are made for; INT8 alone for the others. Biases have INT32."""


def lower_file(canonical: Path, target: LowerTarget, out: Path) -> Path:
    """Write the canonical file, lowered for one runtime, to `out`. Its metadata names the runtime
    (`sensitivity.lowered`).

    - tensorrt: FP16 through types in the graph, opset 19, for strongly typed TensorRT 10 and 11
      (8.6 takes the canonical file).
    - openvino: uint8 activations on the same grid; tensors that are never negative are clipped
      later.
    - onnxruntime: more is quantized, and numbers change a little.
    - qnn: every activation is quantized, to uint8 or uint16, and each operation reads and writes
      one of them.

    Raises ExportError for an unknown target, for a file that is already lowered, and for one in a
    format that the target's passes are not made for; OnnxFileError for a file that cannot be read;
    WriteError if `out` cannot be written.
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
    check_formats(_formats(model), target, canonical.name)
    lowered = importlib.import_module(TARGETS[target]).lower(model)
    lowered.metadata_props["sensitivity.lowered"] = target
    return save(lowered, out)


def can_be_lowered(canonical: Path, target: str) -> bool:
    """Return whether `lower_file` takes the formats of a canonical file for this runtime."""
    return target in TARGETS and not _other_formats(_formats(load_model(canonical)), target)


def check_formats(formats: Iterable[str], target: str, what: str) -> None:
    """Raise ExportError for formats of quantizers that no file can be lowered with.

    what: what has these formats, as the message names it.
    """
    others = _other_formats(formats, target)
    if others:
        raise ExportError(
            f"Expected everything in INT8 to lower it for {target}, got {' and '.join(others)} in "
            f"{what}; give the runtime the canonical file, as 'sensitivity bench' does."
        )


def _other_formats(formats: Iterable[str], target: str) -> list[str]:
    """Return the formats that the target's passes are not made for, sorted."""
    return sorted(set(formats) - TAKEN.get(target, {"INT8"}))


def _formats(model: ir.Model) -> set[str]:
    return {format_of(pair) for pair in qdq.pairs(model.graph)}
