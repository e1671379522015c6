"""Lowers the files of a plan of a Q/DQ source: for ONNX Runtime, and for its QNN execution
provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import onnx
import onnx_ir as ir

from sensitivity.errors import ExportError, OnnxFileError
from sensitivity.exporters.evaluate import input_ports
from sensitivity.exporters.example import Example
from sensitivity.exporters.lower import can_be_lowered, lower_file
from sensitivity.exporters.ranges import CHUNK, activation_ranges, keep_ranges
from sensitivity.exporters.verification import LoweringCheck
from sensitivity.exporters.verify_lowering import check_lowering
from sensitivity.exporters.writing import save
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.integer_layers import quantizer_after
from sensitivity.onnx_graph.load import load_model
from sensitivity.onnx_graph.walk import inputs, of_kind
from sensitivity.quantizers.onnx.batches import Arrays, feed, pieces
from sensitivity.tasks.scoring import Scoring

VARIANTS = {"qnn": ("partial",), "onnxruntime": ("int8", "partial")}
"""Target -> the files that are lowered for it."""


def _with_types(model: ir.Model) -> ir.Model:
    """Return the model with the types of all its values, which files of other tools may lack."""
    for node in of_kind(model.graph, "DequantizeLinear"):
        # ONNX does not know this of pairs in ONNX Runtime's own domain.
        output = node.outputs[0]
        output.type = output.type or ir.TensorType(ir.DataType.FLOAT)
    proto: onnx.ModelProto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    typed: ir.Model = ir.from_proto(proto)
    return typed


def lower_qdq(
    files: Mapping[str, Path],
    target: Literal["qnn", "onnxruntime"],
    example: Example,
    batches: Callable[[], Iterable[Any]],
    *,
    scoring: Scoring | None = None,
    left_out: dict[str, str] | None = None,
) -> dict[str, LoweringCheck]:
    """Lower the files of a Q/DQ source as `lower_file` does canonical ones, and return the name of
    each file written -> its check.

    Beside the partial file there is model.partial.<target>.onnx, and for ONNX Runtime, which is
    benched, model.int8.onnxruntime.onnx too.

    batches: returns batches of inputs, on which the ranges of all activations are measured.
    left_out: receives the name of each file that cannot be lowered, or does not compute what it
        should, and the reason; it is not written. None raises ExportError or OnnxFileError instead.
    Raises ExportError for a file in FP16.
    """
    ports = input_ports(files["float"])
    fixed = next((size for size in ports.values() if size is not None), None)

    def named(inputs: Any) -> Arrays:
        (arrays,) = pieces(feed(inputs, list(ports)), fixed)
        return arrays

    # Names of float activations are those of the partial file in all others.
    of_partial = _with_types(load_model(files["partial"]))
    if target == "onnxruntime":
        _check_is_fp32(of_partial, files["partial"].name)
    ranges = activation_ranges(of_partial, batches(), named=named, chunk=fixed or CHUNK)
    checks = {}
    for variant in VARIANTS[target]:
        file = files[variant]
        lowered = file.with_name(f"{file.stem}.{target}.onnx")
        model = _with_types(load_model(file))
        keep_ranges(model, ranges)
        try:
            with TemporaryDirectory() as folder:
                lower_file(save(model, Path(folder) / file.name), target, lowered)
            judged = scoring and scoring.of(variant)
            check = check_lowering(file, lowered, files["float"], example, judged)
        except (ExportError, OnnxFileError) as error:
            lowered.unlink(missing_ok=True)
            if left_out is None:
                raise
            left_out[lowered.name] = f"not written: {error}"
        else:
            checks[lowered.name] = check
    return checks


def _check_is_fp32(model: ir.Model, name: str) -> None:
    """Raise ExportError for pairs that give another float type than the passes write."""
    others = _float_types(model) - {"float32"}
    if others:
        raise ExportError(
            f"Expected pairs in float32 to lower a file for ONNX Runtime, got "
            f"{' and '.join(sorted(others))} in {name}; use it as it is, or lower one in float32."
        )


def _float_types(model: ir.Model) -> set[str]:
    """Return the types of the constant scales of all pairs."""
    nodes = of_kind(model.graph.all_nodes(), "DequantizeLinear")
    scales = (qdq.constant(node.inputs[1]) for node in nodes)
    return {str(scale.dtype) for scale in scales if scale is not None}


def lacks_output_pairs(file: Path) -> bool:
    """Return whether most convolutions between pairs give float, as in files made for TensorRT.

    ONNX Runtime runs them in float (SQ702) unless the file is lowered. Files in FP16, and those
    with pairs of other formats than INT8, cannot be.
    """
    model = load_model(file)
    if _float_types(model) != {"float32"} or not can_be_lowered(file, "onnxruntime"):
        return False
    convs = list(of_kind(model.graph.all_nodes(), "Conv"))
    between = [node for node in convs if all(map(qdq.pair_of, inputs(node)[:2]))]
    in_float = [node for node in between if quantizer_after(node.outputs[0]) is None]
    return 2 * len(in_float) > len(between)
