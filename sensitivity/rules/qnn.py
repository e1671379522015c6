"""SQ8: what ONNX Runtime's QNN execution provider does not take for a quantized operation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sensitivity.onnx_graph import qdq
from sensitivity.onnx_graph.clamps import cuts_like
from sensitivity.onnx_graph.walk import is_kind, name_of, only_user
from sensitivity.rules.base import Hit, Subject, rule
from sensitivity.rules.examples import POINTWISE, Array, Example, conv
from sensitivity.rules.examples import qdq as pair
from sensitivity.rules.paths import QDQ, attribute, grid_type

QNN = ("qnn",)
SEEN = "onnxruntime-qnn 2.7.0 with QNN 2.51's HTP backend for x86-64"
SELECTORS = "ONNX Runtime, optimizer/qdq_transformer/selectors_actions/qdq_selectors.cc"
JOINED = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Concat"})
"""Operations all inputs of which must have the type of the output. Of others only the first must:
weights, and the second operand of a MatMul, may have another."""

WIDE: dict[str, Array] = {
    "s16": np.array(0.05 / 256, np.float32),
    "h": np.array(32768, np.uint16),
    "w8": np.ones((16, 16, 3, 3), np.uint8),
    "v8": np.ones((16, 16, 1, 1), np.uint8),
    "ws": np.array(0.01, np.float32),
}
W8 = "wd = DequantizeLinear (w8, ws, u128)\n"
SECOND = "vd = DequantizeLinear (v8, ws, u128)\n"


def _border(between: str, read: str) -> Example:
    """Return a convolution in 8 bits and one in 16, with these pairs between them."""
    body = pair("x", zero="u128") + W8 + conv(to="c", name="first") + between
    body += SECOND + conv(read, "vd", to="e", name="second", rest=POINTWISE)
    return Example(body + pair("e", "s16", "h", to="y"), opset=21, constants=WIDE)


@rule(
    "SQ801",
    "formats-meet",
    "error",
    QNN,
    why="ONNX Runtime takes an operation and its pairs for one quantized operation only if its "
    "input and output have the same type; of Add, Sub, Mul, Div, Pow and Concat all inputs must "
    "have it. Otherwise QNN gets a float operation with pairs around it: padded convolutions gave "
    "wrong values (SQ802), Gelu did not build, an int32 bias was left to the CPU, and others were "
    "computed in float.",
    fix="Where formats meet, put a pair of one format after a pair of the other: 'sensitivity "
    "export --for qnn' does so, and ONNX Runtime's get_qnn_qdq_config for the tensors in "
    "init_overrides.",
    source="ONNX Runtime docs, QNN Execution Provider > Mixed precision support; "
    + SELECTORS
    + "; measured: "
    + SEEN,
    bad=_border(pair("c", "s16", "h"), "cd"),
    good=_border(pair("c", zero="u128") + pair("cd", "s16", "h", to="cwd"), "cwd"),
)
def formats_meet(subject: Subject) -> Iterator[Hit]:
    """Find operations between pairs of which the types differ."""
    for node in subject.nodes:
        before, after = _types_before(node), _types_after(node)
        if node.op_type in QDQ or not before or not after:
            continue
        types = {*(before if node.op_type in JOINED else before[:1]), *after}
        if len(types) > 1:
            got = f"{' and '.join(dict.fromkeys(before))} before it, {' and '.join(after)} after it"
            yield name_of(node), f"expected one type around this {node.op_type}, got {got}"


@rule(
    "SQ802",
    "padded-in-float",
    "error",
    QNN,
    why="If its output is not quantized, an operation behind a pair is a float one for QNN. Behind "
    "8 bits it then pads with the lowest value of the pair instead of with 0, without any message: "
    "wrong values along the border of Conv, and everywhere in a ConvTranspose. Behind 16 bits it "
    "pads with 0.",
    fix="Put a pair after the operation, or after its Relu if the zero point is the smallest value "
    "of its type. 'sensitivity export --for qnn' does so, and quantize_static with "
    "get_qnn_qdq_config of ONNX Runtime.",
    source=f"{SELECTORS}; measured: {SEEN}, with 8 bits and a float or 8-bit weight, "
    "findings/ort_qnn_pads_with_code_zero.sh",
    bad=Example(pair("x", zero="u128") + W8 + conv(), constants=WIDE),
    good=Example(
        pair("x", zero="u128") + W8 + conv(to="c") + pair("c", zero="u128", to="y"), constants=WIDE
    ),
)
def padded_in_float(subject: Subject) -> Iterator[Hit]:
    """Find operations that pad what a pair of 8 bits gives them, and whose output is not
    quantized."""
    for node in subject.nodes:
        is_narrow = _types_before(node)[:1] in (["uint8"], ["int8"])
        if _pads(node) and is_narrow and not _types_after(node):
            yield name_of(node), f"expected only a Q/DQ pair after this {node.op_type}, got float"


def _pads(node: ir.Node) -> bool:
    """Return whether a node computes with padding of its input."""
    if node.op_type == "ConvTranspose":
        return True  # by its kernel, whatever its attributes say
    is_padded = any(node.attributes.get_ints("pads", ())) or _pads_by_itself(node)
    counts = node.op_type == "AveragePool" and attribute(node, "count_include_pad", 0)
    return is_padded and (node.op_type == "Conv" or bool(counts))


def _pads_by_itself(node: ir.Node) -> bool:
    return node.attributes.get_string("auto_pad", "NOTSET") in {"SAME_UPPER", "SAME_LOWER"}


def _types_before(node: ir.Node) -> list[str]:
    """Return the types of the activations that a node reads; empty unless its first input comes
    from a pair."""
    if not node.inputs or qdq.pair_of(node.inputs[0]) is None:
        return []
    pairs = filter(None, map(qdq.pair_of, node.inputs))
    types = (grid_type(pair.dequantize) for pair in pairs if not pair.of_weight)
    return list(filter(None, types))


def _types_after(node: ir.Node) -> list[str]:
    """Return the types to which the outputs of a node are quantized, directly or after a Relu or
    Clip that the pair makes redundant; empty if an output is also read in float."""
    types = []
    for value in node.outputs:
        kinds = [_type_after(value, reader) for reader in value.consumers()]
        if not kinds or value.is_graph_output():
            return []
        types += kinds
    return list(filter(None, types)) if all(types) else []


def _type_after(value: ir.Value, reader: ir.Node) -> str | None:
    """Return the type to which a reader of the value quantizes it; None if it stays in float."""
    if is_kind(reader, "Relu", "Clip") and only_user(value) is reader:
        quantize = only_user(reader.outputs[0])
        if not is_kind(quantize, "QuantizeLinear"):
            return None
        scale, zero_point = map(qdq.constant, (quantize.inputs[1], qdq.zero_point_value(quantize)))
        if scale is None or zero_point is None or not cuts_like(scale, zero_point, reader):
            return None
        return grid_type(quantize)
    return grid_type(reader) if reader.op_type == "QuantizeLinear" else None
