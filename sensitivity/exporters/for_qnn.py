"""Lowers the file of a plan of a Q/DQ source for ONNX Runtime's QNN execution provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx_ir as ir

from sensitivity.errors import ExportError
from sensitivity.exporters.evaluate import arrays_of, input_ports
from sensitivity.exporters.example import Example
from sensitivity.exporters.lower import lower_file
from sensitivity.exporters.ranges import CHUNK, activation_ranges, keep_ranges
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.walk import of_kind
from sensitivity.quantizers.onnx.batches import Arrays, feed, pieces
from sensitivity.tasks.scoring import Scoring


def _with_types(model: ir.Model) -> ir.Model:
    """Return the model with the types of all its values, which files of other tools may lack."""
    for node in of_kind(model.graph, "DequantizeLinear"):
        # ONNX does not know this of pairs in ONNX Runtime's own domain.
        output = node.outputs[0]
        output.type = output.type or ir.TensorType(ir.DataType.FLOAT)
    proto: onnx.ModelProto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    typed: ir.Model = ir.from_proto(proto)
    return typed


def lower_for_qnn(
    files: Mapping[str, Path],
    example_inputs: Any,
    batches: Callable[[], Iterable[Any]],
    *,
    scoring: Scoring | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, LoweringCheck]:
    """Write model.partial.qnn.onnx beside the files of a Q/DQ source, and return its name -> its
    check.

    batches: returns batches of inputs, on which the ranges of all activations are measured.
    left_out: receives the name of the file and the reason if it cannot be lowered, or does not
        compute what it should; it is removed then. None raises ExportError instead.
    """
    example = Example(arrays_of(files["float"], example_inputs))
    ports = input_ports(files["float"])
    fixed = next((size for size in ports.values() if size is not None), None)

    def named(inputs: Any) -> Arrays:
        (arrays,) = pieces(feed(inputs, list(ports)), fixed)
        return arrays

    file = files["partial"]
    model = _with_types(load_model(file))
    keep_ranges(model, activation_ranges(model, batches(), named=named, chunk=fixed or CHUNK))
    lowered = file.with_name(f"{file.stem}.qnn.onnx")
    try:
        with TemporaryDirectory() as folder:
            lower_file(save(model, Path(folder) / file.name), "qnn", lowered)
        judged = scoring and scoring.of("partial")
        check = check_lowering(file, lowered, files["float"], example, judged)
    except ExportError as error:
        lowered.unlink(missing_ok=True)
        if left_out is None:
            raise
        left_out[lowered.name] = f"not written: {error}"
        return {}
    return {lowered.name: check}
