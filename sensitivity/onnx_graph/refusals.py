"""Says in one sentence why the quantizers of a file cannot be switched, if they cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from sensitivity.errors import OnnxFileError
from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.passes.one_grid_per_pair import differing_grids
from sensitivity.onnx_graph.reach import values_read
from sensitivity.onnx_graph.walk import input_at, name_of, of_kind, reached

DYNAMIC = {
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulIntegerToFloat",
}
"""Operations of ONNX and ONNX Runtime with dynamic quantization."""
INTEGER = {"ConvInteger", "GatherBlockQuantized", "MatMulBnb4", "MatMulInteger", "MatMulNBits"}
"""Operations that compute on integers, or store their weights in fewer bits."""
STANDARD = {"", "ai.onnx", "ai.onnx.ml"}
"""Domains of the ONNX standard."""
RUNTIME = {"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
"""Domains of ONNX Runtime's own operations."""

FIRST_OPSET, FIRST_PER_AXIS, FIRST_MIXED = 10, 13, 23
"""Opsets that brought QuantizeLinear, its channel axis, and scales of another type than its
input."""


def check_switchable(model: ir.Model, name: str, *, custom_ops: bool = False) -> None:
    """Raise OnnxFileError unless the file has Q/DQ pairs and nothing in it is quantized in another
    way.

    name: name of the file.
    custom_ops: whether a library provides operations of other domains.
    """
    nodes = list(model.graph.all_nodes())
    dynamic = of_kind(nodes, *DYNAMIC)
    integer = list(filter(_computes_in_integers, nodes))
    if dynamic:
        raise OnnxFileError(
            f"Expected {name} to be quantized statically, with QuantizeLinear and "
            f"DequantizeLinear, got dynamic quantization ({_listed(dynamic)}), whose ranges are "
            "taken from each input: there is nothing calibrated to choose among; quantize the "
            "float model with onnxruntime.quantization.quantize_static."
        )
    if integer:
        raise OnnxFileError(
            f"Expected {name} to keep float operations between QuantizeLinear and "
            f"DequantizeLinear, got integer operations ({_listed(integer)}), the QOperator format; "
            "quantize the float model again with quant_format=QuantFormat.QDQ."
        )
    _check_opset(model, nodes, name)
    _check_scale_types(model, nodes, name)
    _check_pairs(model.graph, nodes, name)
    unknown = [] if custom_ops else [node for node in nodes if not _is_known(model, node)]
    if unknown:
        raise OnnxFileError(
            f"Expected {name} to hold operations that ONNX Runtime knows, got {_listed(unknown)}; "
            "cut the file before them with onnx.utils.extract_model, or give OnnxModel the "
            "library that has them as custom_ops=."
        )


def _check_pairs(graph: ir.Graph, nodes: list[ir.Node], name: str) -> None:
    """Raise OnnxFileError unless there are whole pairs, each with calibrated scales and on one
    grid."""
    has_pair = next(qdq.pairs(graph), None) is not None
    alone = of_kind(nodes, *qdq.PAIR)
    if not has_pair and alone:
        raise OnnxFileError(
            f"Expected a QuantizeLinear and a DequantizeLinear of {name} to follow each "
            f"other, with nothing but moves of integers between them, got {_listed(alone)} "
            "without the other one; export the model with its operations in float between "
            "pairs."
        )
    if not has_pair:
        raise OnnxFileError(
            f"Expected {name} to hold Q/DQ pairs, got {len(nodes)} operations and no pair of "
            "QuantizeLinear and DequantizeLinear; quantize it first, for instance with "
            "onnxruntime.quantization.quantize_static."
        )
    ends = [pair.dequantize for pair in qdq.pairs(graph)]
    computed = [node for node in ends if _follows_inputs(input_at(node, 1))]
    if computed:
        raise OnnxFileError(
            f"Expected the scales of the pairs in {name} to be calibrated, got ones that the graph "
            f"computes from each input ({_listed(computed)}), as TensorFlow's "
            "quantize_and_dequantize does with range_given=False: there is nothing calibrated to "
            "choose among; convert the model again with range_given=True and the ranges seen in "
            "training."
        )
    differing = [pair.dequantize for pair in differing_grids(graph)]
    if differing:
        raise OnnxFileError(
            f"Expected the QuantizeLinear and the DequantizeLinear of each pair in {name} to have "
            f"one grid, got scales or zero points that differ ({_listed(differing)}) on a tensor "
            "whose axes are not known; export the model with onnx.shape_inference.infer_shapes."
        )


def _follows_inputs(value: ir.Value | None) -> bool:
    """Return whether a value depends on the model's inputs, and not only on their shapes."""
    if value is None or qdq.constant(value) is not None:
        return False
    return any(map(_is_input, reached([value], _read_for)))


def _read_for(value: ir.Value) -> list[ir.Value]:
    """Return what the operation that gives a value reads; nothing for shapes and constants."""
    node = value.producer()
    if node is None or node.op_type == "Shape":
        return []
    return list(values_read(node))


def _is_input(value: ir.Value) -> bool:
    return value.is_graph_input() and not value.is_initializer()


def is_quantized_otherwise(node: ir.Node) -> bool:
    """Return whether the operation is quantized without pairs: dynamically, or in integers
    itself."""
    return node.op_type in DYNAMIC or _computes_in_integers(node)


def _computes_in_integers(node: ir.Node) -> bool:
    """Return whether the operation holds or takes integers itself, so that no pair before it
    could be switched."""
    if node.op_type in INTEGER or node.op_type.startswith("QLinear"):
        return True
    # ONNX Runtime's own are QAttention, QGemm, QMoE, QOrderedMatMul, ..., but not QuickGelu.
    is_quantized = re.match("Q[A-Z]", node.op_type) is not None
    return is_quantized and node.domain in RUNTIME


def _check_opset(model: ir.Model, nodes: Iterable[ir.Node], name: str) -> None:
    """Raise OnnxFileError if the file's opset is older than the Q/DQ operations in it."""
    opset = _opset(model)
    ours = [node for node in of_kind(nodes, *qdq.PAIR) if node.domain in STANDARD]
    per_axis = [node for node in ours if qdq.scales_of(node).size > 1]
    for needed, using, what in (
        (FIRST_OPSET, ours, "Q/DQ pairs"),
        (FIRST_PER_AXIS, per_axis, "scales per channel"),
    ):
        is_too_old = opset < needed
        if using and is_too_old:
            raise OnnxFileError(
                f"Expected {name} with {what} ({_listed(using)}) to be of opset {needed} or later, "
                f"got opset {opset}; convert the float model with "
                f"onnx.version_converter.convert_version(model, {FIRST_PER_AXIS}) and quantize it "
                "again."
            )


def _check_scale_types(model: ir.Model, nodes: Iterable[ir.Node], name: str) -> None:
    """Raise OnnxFileError if a Q has a scale of another type than its input.

    ONNX Runtime 1.31 loads such a file and fails at its first run.
    """
    if _opset(model) < FIRST_MIXED:
        return
    common.ShapeInferencePass()(model)
    mixed = list(filter(has_mixed_types, of_kind(nodes, "QuantizeLinear")))
    if mixed:
        value, scale = mixed[0].inputs[:2]
        assert value is not None
        assert scale is not None
        raise OnnxFileError(
            f"Expected each QuantizeLinear of {name} to have a scale of its input's type, since "
            f"ONNX Runtime fails to run others, got {scale.dtype} for {value.dtype} "
            f"({_listed(mixed)}); write the scales in the type of the input, or quantize the float "
            "model in FP32."
        )


def has_mixed_types(quantize: ir.Node) -> bool:
    """Return whether the input of a Q and its scale are known to have different types."""
    types = {value.dtype for value in quantize.inputs[:2] if value is not None}
    return len(types - {None}) > 1


def _opset(model: ir.Model) -> int:
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def _is_known(model: ir.Model, node: ir.Node) -> bool:
    """Return whether ONNX, ONNX Runtime or the file itself defines the operation."""
    if node.op_identifier() in model.functions or node.domain in RUNTIME:
        return True
    if node.domain not in STANDARD:
        return False
    # ONNX registers its own operations under the empty domain.
    domain = "" if node.domain == "ai.onnx" else node.domain
    return bool(onnx.defs.has(node.op_type, domain=domain))


def _listed(nodes: list[ir.Node]) -> str:
    """Return the first of these nodes in words, and the number of the others."""
    first = nodes[0]
    kind = f"{first.domain}.{first.op_type}" if first.domain else first.op_type
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return f"{kind} at {name_of(first)}{more}"
